"""The floor: a server of the board's kind (aiohttp's low-level server, uvloop) that answers each path a constant.

``python floor.py ANSWERS`` reads a JSON object of path to base64 body, listens on a free port of the loopback, prints
``ready http://HOST:PORT`` and serves until SIGTERM. It reads the request's body, as the board has to.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
from pathlib import Path

import uvloop
from aiohttp import web


async def serve(answers: dict[str, bytes]) -> None:
    headers = {"Content-Type": "application/x-protobuf"}

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.can_read_body:
            await request.read()
        body = answers.get(request.raw_path)
        if body is None:
            return web.Response(status=404)
        return web.Response(body=body, headers=headers)

    loop = asyncio.get_running_loop()
    server = web.Server(handle, access_log=None, keepalive_timeout=120.0, auto_decompress=False)
    listener = await loop.create_server(server, "127.0.0.1", 0, backlog=1024)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    host, port = listener.sockets[0].getsockname()
    print(f"ready http://{host}:{port}", flush=True)
    await stopped.wait()
    listener.close()
    await server.shutdown(1.0)


if __name__ == "__main__":
    uvloop.run(
        serve({path: base64.b64decode(body) for path, body in json.loads(Path(sys.argv[1]).read_text()).items()})
    )
