"""Equal definitions are checked once and kept once.

Who runs tasks by the thousand desires a few definitions again and again. A definition that was checked and described
lately is told by its canonical bytes, and its ``Definition`` is shared by all tasks that have it: a second desire of it
costs one lookup, and its bytes stand in memory once.
"""

from __future__ import annotations

from bulletin.core.limits import SHARED_DEFINITION_BYTES_MAX, SHARED_DEFINITIONS_BYTES_MAX, SHARED_DEFINITIONS_MAX
from bulletin.core.model import Definition
from bulletin.wire import validation
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.tasks import describe

__all__ = ["Definitions"]


class Definitions:
    """The valid definitions that were desired last, bounded in number and bytes; the least used goes first."""

    def __init__(self) -> None:
        self._known: dict[bytes, Definition] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def take(self, request: bbs_pb2.DesireTaskRequest) -> Definition:
        """Check ``request`` and give its definition. Unknown fields have been discarded by whoever decoded it.

        Raises:
            TaskError: InvalidRequest, with every problem of the request (board-api.md 5.1, 5.2).
        """
        encoded: bytes = request.task_definition.SerializeToString(deterministic=True)
        known = self._known.pop(encoded, None)
        if known is not None:
            self._known[encoded] = known  # the last used stands last
            validation.check_desire_of_known(request)
            return known
        validation.check_desire(request)
        definition = describe(request.task_definition, encoded)
        if len(encoded) <= SHARED_DEFINITION_BYTES_MAX:
            self._keep(definition)
        return definition

    def _keep(self, definition: Definition) -> None:
        self._known[definition.encoded] = definition
        self._bytes += len(definition.encoded)
        while self._bytes > SHARED_DEFINITIONS_BYTES_MAX or len(self._known) > SHARED_DEFINITIONS_MAX:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._bytes -= len(oldest)
