"""Every route of the board has its method: what the client can do is what the board can."""

from __future__ import annotations

import pytest

from bulletin import AsyncClient
from bulletin.wire.routes import OWN_ROUTES, ROUTES

#: Route name to the call that uses it. Older forms are for older clients, and have none.
CALLS = {
    "Ping": lambda client, _definition: client.ping(),
    "Domains": lambda client, _definition: client.domains(),
    "UpsertDomain": lambda client, _definition: client.upsert_domain("d", 1),
    "Tasks": lambda client, _definition: client.tasks(),
    "TaskByGuid": lambda client, _definition: client.task("g"),
    "DesireTask": lambda client, definition: client.desire("g", "d", definition),
    "StartTask": lambda client, _definition: client.start("g", "c"),
    "CancelTask": lambda client, _definition: client.cancel("g"),
    "FailTask": lambda client, _definition: client.fail("g", "r"),
    "RejectTask": lambda client, _definition: client.reject("g", "r"),
    "CompleteTask": lambda client, _definition: client.complete("g", "c"),
    "ResolvingTask": lambda client, _definition: client.resolving("g"),
    "DeleteTask": lambda client, _definition: client.delete("g"),
    "TaskEventStream": lambda client, _definition: anext(client.events()),
    "Cells": lambda client, _definition: client.cells(),
    "TaskOutput": lambda client, _definition: client.output("g"),
    "TaskCallbacks": lambda client, _definition: client.callback_attempts("g"),
    "TaskEvents": lambda client, _definition: anext(client.follow()),
}
#: Not for clients of tasks: the cells' own link, a document for tools, and a page for Prometheus.
FOR_OTHERS = {"Link", "OpenAPI", "Metrics"}
BY_NAME = {route.name: route for route in (*ROUTES, *OWN_ROUTES)}


def test_every_route_has_a_call():
    current = {route.name for route in ROUTES if "_r" not in route.name} | {route.name for route in OWN_ROUTES}
    assert current == CALLS.keys() | FOR_OTHERS


@pytest.mark.parametrize("name", CALLS)
async def test_the_call_uses_its_route(name, definition, monkeypatch):
    """The first request of the call goes to the route's path by the route's method."""
    asked = []

    class Asked(Exception):
        pass

    def ask(self, method, url, **_arguments):
        asked.append((method, url.path))
        raise Asked

    monkeypatch.setattr("aiohttp.ClientSession.request", ask)
    async with AsyncClient("http://127.0.0.1:1") as client:
        with pytest.raises(Asked):
            await CALLS[name](client, definition)
    route = BY_NAME[name]
    assert asked == [(route.method, route.path.replace("{guid}", "g"))]
