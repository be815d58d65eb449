"""Who may call what (design promise S14).

A peer's roles stand in its certificate's subject: each organizational unit ``client``, ``cell`` or ``operator`` is a
role, and the common name is the name, for a cell its id. ``wire.routes`` says which roles a route takes. Beyond that
a cell speaks for itself only: it starts and completes tasks under its own id, and gives back only its own.

On plain HTTP, and with roles switched off, every peer may do what any of them may. One thing nobody may: take a
running task away from a cell that is linked with the board (S1); such a cell gives its tasks back on its link.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from bulletin.board.reign import Reign
from bulletin.board.settings import BoardSettings
from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.model import TaskState
from bulletin.trust.subjects import read_subject
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.routes import OwnRoute, Role, Route

__all__ = ["Auth", "Forbidden", "Guard", "Peer", "check_cell", "check_own", "check_role"]

_ALL_ROLES: Final = frozenset(Role)
#: Subjects remembered; one has some hundred bytes. A board has as many peers as it has cells and clients.
_SUBJECTS_MAX: Final = 10_000

#: Checks a call of one route after its message was read; raises ``Forbidden``.
Guard = Callable[[web.BaseRequest, Any, Reign], None]


class Forbidden(TaskError):
    """The caller's certificate does not allow this; the text says which one would."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorType.INVALID_REQUEST, message)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection."""

    #: The certificate's; empty on plain HTTP.
    name: str
    roles: frozenset[Role]
    #: The only cell it may speak for; None when it may speak for any, or has not the role.
    cell_id: str | None


_ANYBODY: Final = Peer("", _ALL_ROLES, None)
_NOBODY: Final = Peer("", frozenset(), None)


class Auth:
    """Tells peers apart by their certificates, as the settings say."""

    def __init__(self, settings: BoardSettings) -> None:
        self._is_plain = settings.tls is None
        self._roles_count = settings.roles == "certificate"
        #: A peer follows from its certificate's subject alone, so that is what a connection's peer is looked up by.
        self._peers: dict[Any, Peer] = {}

    def peer(self, request: web.BaseRequest) -> Peer:
        """Who sent ``request``; TLS has verified the certificate."""
        if self._is_plain:
            return _ANYBODY
        transport = request.transport
        certificate = None if transport is None else transport.get_extra_info("peercert")
        if not certificate:
            return _NOBODY  # the connection is gone, or is none of ours
        subject = certificate["subject"]
        return self._peers.get(subject) or self._meet(subject)

    def guard(self, route: Route) -> Guard | None:
        """What has to be checked of a call of ``route`` once its message is read; None: nothing."""
        if route.handler not in _OWN:
            return None

        def guard(request: web.BaseRequest, message: Any, reign: Reign) -> None:  # noqa: ANN401 - each route has its own message
            check_own(route, self.peer(request), message, reign)

        return guard

    def _meet(self, subject: Any) -> Peer:  # noqa: ANN401 - the form of the ssl module
        found = read_subject(subject)
        if self._roles_count:
            peer = Peer(found.name, found.roles, found.name if Role.CELL in found.roles else None)
        else:
            peer = Peer(found.name, _ALL_ROLES, None)
        if len(self._peers) >= _SUBJECTS_MAX:
            self._peers.clear()
        self._peers[subject] = peer
        return peer


def check_role(route: Route | OwnRoute, peer: Peer) -> None:
    """Refuse a peer that has none of the route's roles.

    Raises:
        Forbidden: says which certificate would do.
    """
    if route.roles.isdisjoint(peer.roles):
        needed = sorted(role.value for role in route.roles)
        has = ", ".join(sorted(role.value for role in peer.roles)) or "none"
        text = (
            f"{route.name} needs the role {' or '.join(needed)}, and the certificate of {peer.name!r} has {has}; "
            f"use one made by `bulletin certs issue DIRECTORY --role {needed[0]}`"
        )
        raise Forbidden(text)


def check_own(route: Route, peer: Peer, message: Any, reign: Reign) -> None:  # noqa: ANN401 - each route has its own message
    """Refuse a peer that speaks for a cell it is not, or takes a task from one.

    Args:
        route: one whose roles ``peer`` has.
        peer: who calls.
        message: the request, decoded and not validated.
        reign: knows the tasks, and which cell has them.

    Raises:
        Forbidden: says whose the task is, or which certificate would do.
    """
    check = _OWN.get(route.handler)
    if check is not None:
        check(peer, message, reign)


def check_cell(peer: Peer, cell_id: str) -> None:
    """Refuse a cell that introduces itself by another cell's name.

    Raises:
        Forbidden: says what to do.
    """
    if peer.cell_id is not None and peer.cell_id != cell_id:
        text = (
            f"the certificate is of cell {peer.cell_id}, not {cell_id}; start the cell with --id {peer.cell_id}, "
            f"or with a certificate made by `bulletin certs issue DIRECTORY --role cell --name {cell_id}`"
        )
        raise Forbidden(text)


def _check_speaker(peer: Peer, message: bbs_pb2.StartTaskRequest | bbs_pb2.CompleteTaskRequest, _reign: Reign) -> None:
    if message.cell_id:  # one without is refused as such
        check_cell(peer, message.cell_id)


def _check_reject(peer: Peer, message: bbs_pb2.RejectTaskRequest, reign: Reign) -> None:
    guid = message.task_guid
    task = reign.writer.tasks.get(guid)
    if task is None:
        return  # nothing to protect: the handler says that there is no such task
    holder = reign.cells.holder(guid)
    if task.state is TaskState.RUNNING:
        is_any_cell = peer.cell_id is None and Role.CELL in peer.roles
        if task.cell_id != peer.cell_id and (not is_any_cell or holder is not None):
            text = f"task {guid} is running on cell {task.cell_id}, and only that cell may reject it; cancel it instead"
            raise Forbidden(text)
    elif task.state is TaskState.PENDING:
        is_own = peer.cell_id is not None and holder == peer.cell_id
        if not is_own and Role.OPERATOR not in peer.roles:
            raise Forbidden(f"task {guid} was not given to cell {peer.cell_id}, which therefore cannot reject it")


#: What is checked of a request beyond its route's roles, by the route's handler.
_OWN: Final[dict[str, Callable[[Peer, Any, Reign], None]]] = {
    "start_task": _check_speaker,
    "complete_task": _check_speaker,
    "reject_task": _check_reject,
}
