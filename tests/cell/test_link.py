"""The cell's end of the link: at once when it can be, in order when it cannot."""

from __future__ import annotations

import asyncio

import pytest

from bulletin.cell import link as cell_link
from bulletin.cell.link import Link


class Socket:
    """A WebSocket whose buffer is full while ``full`` is not None."""

    def __init__(self):
        self.sent = []
        self.full = None
        self.broken = False
        self.closed = 0

    async def send_bytes(self, data):
        if self.broken:
            raise ConnectionResetError("Cannot write to closing transport")
        self.sent.append(data)
        if self.full is not None:
            await self.full
            if self.broken:
                raise ConnectionResetError("Connection lost")

    async def close(self):
        self.closed += 1


@pytest.fixture
def socket():
    return Socket()


async def test_a_frame_is_written_before_send_returns(socket):
    link = Link(socket)
    before = asyncio.all_tasks()
    link.send(b"a")
    link.send(b"b")
    assert socket.sent == [b"a", b"b"]
    assert asyncio.all_tasks() == before


async def test_frames_wait_in_order_while_the_board_does_not_read(socket):
    link = Link(socket)
    socket.full = asyncio.get_running_loop().create_future()
    for frame in (b"a", b"b", b"c"):
        link.send(frame)
    assert socket.sent == [b"a"]
    full, socket.full = socket.full, None
    full.set_result(None)
    await link._flusher
    assert socket.sent == [b"a", b"b", b"c"]
    link.send(b"d")
    assert socket.sent == [b"a", b"b", b"c", b"d"]


async def test_a_board_that_does_not_read_at_all_is_cut_off(socket, monkeypatch):
    monkeypatch.setattr(cell_link, "LINK_WAITING_BYTES_MAX", 10)
    link = Link(socket)
    socket.full = asyncio.get_running_loop().create_future()
    for _ in range(20):
        link.send(b"four")
    await link.close()
    assert socket.sent == [b"four"]
    assert socket.closed == 1


async def test_a_broken_link_is_closed_and_says_nothing_more(socket):
    link = Link(socket)
    socket.broken = True
    link.send(b"a")
    socket.broken = False
    link.send(b"b")
    await link.close()
    await link.close()
    assert socket.sent == []
    assert socket.closed == 1


async def test_a_link_that_breaks_while_frames_wait(socket):
    link = Link(socket)
    socket.full = asyncio.get_running_loop().create_future()
    link.send(b"a")
    link.send(b"b")
    socket.broken = True
    socket.full.set_result(None)
    await link._flusher
    await link.close()
    assert socket.sent == [b"a"]
    assert socket.closed == 1


async def test_closing_while_frames_wait(socket):
    link = Link(socket)
    socket.full = asyncio.get_running_loop().create_future()
    link.send(b"a")
    await asyncio.sleep(0)
    await link.close()
    assert link._flusher is None
    assert socket.full.cancelled()
