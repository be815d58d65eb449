"""The action tree: the wire's ``Action`` wrappers to and from ``core.actions`` (board-api.md 3.5).

A wrapper holds one submessage per kind; the set one with the lowest field number counts (board-api.md 3.1). Trees
are bounded in depth and in number, so nothing here recurses further than ``limits.ACTION_DEPTH_MAX``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, cast

from bulletin.core import actions, errors
from bulletin.core.actions import Action
from bulletin.core.limits import ACTION_COUNT_MAX, ACTION_DEPTH_MAX
from bulletin.wire.proto import bbs_pb2

__all__ = ["NO_INNER_ACTION", "TOO_DEEP", "TOO_MANY", "decode_action", "encode_action", "pairs", "variables"]

#: What a wrapper with nothing in it is told (board-api.md 5.3 and 5.6).
NO_INNER_ACTION: Final = "Invalid field: inner-action"
#: Ours: the reference has no such bounds.
TOO_DEEP: Final = f"actions are nested more than {ACTION_DEPTH_MAX} levels deep"
TOO_MANY: Final = f"more than {ACTION_COUNT_MAX} actions"

_ACTION: Final = "Invalid field: action"


def decode_action(message: bbs_pb2.Action) -> Action:
    """The tree that ``message`` stands for.

    Raises:
        TaskError: InvalidRequest, when a wrapper is empty or the tree is over ``ACTION_DEPTH_MAX`` or
            ``ACTION_COUNT_MAX``.
    """
    return _Decoder().decode(message, ACTION_DEPTH_MAX)


def encode_action(action: Action) -> bbs_pb2.Action:
    """The wire's message of ``action``.

    Raises:
        TaskError: InvalidRequest, when the tree is deeper than ``ACTION_DEPTH_MAX``.
    """
    return _encode(action, ACTION_DEPTH_MAX)


def pairs(variables: Iterable[bbs_pb2.EnvironmentVariable]) -> tuple[tuple[str, str], ...]:
    """Environment variables as (name, value), in order."""
    return tuple((variable.name, variable.value) for variable in variables)


def variables(named: Iterable[tuple[str, str]]) -> list[bbs_pb2.EnvironmentVariable]:
    """(name, value) pairs as messages, in order."""
    return [bbs_pb2.EnvironmentVariable(name=name, value=value) for name, value in named]


# -- reading -----------------------------------------------------------------------------------------------------


class _Decoder:
    """Decodes one tree and counts its actions."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = ACTION_COUNT_MAX

    def decode(self, message: bbs_pb2.Action, levels: int) -> Action:
        if not levels:
            raise errors.invalid_fields([_ACTION, TOO_DEEP])
        if not self._left:
            raise errors.invalid_fields([_ACTION, TOO_MANY])
        self._left -= 1
        members = message.ListFields()
        if not members:
            raise errors.invalid_fields([_ACTION, NO_INNER_ACTION])
        descriptor, inner = members[0]
        read = _LEAVES.get(descriptor.number)
        if read is not None:
            return read(inner)
        return _BRANCHES[descriptor.number](self, inner, levels - 1)

    def timeout(self, inner: bbs_pb2.TimeoutAction, levels: int) -> Action:
        return actions.TimeoutAction(self.decode(inner.action, levels), inner.timeout_ms, inner.log_source)

    def emit_progress(self, inner: bbs_pb2.EmitProgressAction, levels: int) -> Action:
        return actions.EmitProgressAction(
            self.decode(inner.action, levels),
            inner.start_message,
            inner.success_message,
            inner.failure_message_prefix,
            inner.log_source,
        )

    def try_(self, inner: bbs_pb2.TryAction, levels: int) -> Action:
        return actions.TryAction(self.decode(inner.action, levels), inner.log_source)

    def parallel(self, inner: bbs_pb2.ParallelAction, levels: int) -> Action:
        return actions.ParallelAction(self._all(inner.actions, levels), inner.log_source)

    def serial(self, inner: bbs_pb2.SerialAction, levels: int) -> Action:
        return actions.SerialAction(self._all(inner.actions, levels), inner.log_source)

    def codependent(self, inner: bbs_pb2.CodependentAction, levels: int) -> Action:
        return actions.CodependentAction(self._all(inner.actions, levels), inner.log_source)

    def _all(self, messages: Iterable[bbs_pb2.Action], levels: int) -> tuple[Action, ...]:
        return tuple([self.decode(message, levels) for message in messages])


def _read_download(inner: bbs_pb2.DownloadAction) -> Action:
    return actions.DownloadAction(
        from_=getattr(inner, "from"),
        to=inner.to,
        user=inner.user,
        artifact=inner.artifact,
        cache_key=inner.cache_key,
        log_source=inner.log_source,
        checksum_algorithm=inner.checksum_algorithm,
        checksum_value=inner.checksum_value,
    )


def _read_upload(inner: bbs_pb2.UploadAction) -> Action:
    return actions.UploadAction(
        from_=getattr(inner, "from"),
        to=inner.to,
        user=inner.user,
        artifact=inner.artifact,
        log_source=inner.log_source,
    )


def _read_run(inner: bbs_pb2.RunAction) -> Action:
    limits = actions.ResourceLimits()
    if inner.HasField("resource_limits"):
        given = inner.resource_limits
        limits = actions.ResourceLimits(
            given.nofile if given.HasField("nofile") else None, given.nproc if given.HasField("nproc") else None
        )
    return actions.RunAction(
        path=inner.path,
        user=inner.user,
        args=tuple(inner.args),
        dir=inner.dir,
        env=pairs(inner.env),
        resource_limits=limits,
        log_source=inner.log_source,
        suppress_log_output=inner.suppress_log_output,
    )


_LEAVES: Final[dict[int, Callable[..., Action]]] = {1: _read_download, 2: _read_upload, 3: _read_run}
_BRANCHES: Final[dict[int, Callable[..., Action]]] = {
    4: _Decoder.timeout,
    5: _Decoder.emit_progress,
    6: _Decoder.try_,
    7: _Decoder.parallel,
    8: _Decoder.serial,
    9: _Decoder.codependent,
}


# -- writing -----------------------------------------------------------------------------------------------------


def _encode(action: Action, levels: int) -> bbs_pb2.Action:
    if not levels:
        raise errors.invalid_fields([_ACTION, TOO_DEEP])
    message = bbs_pb2.Action()
    _WRITERS[type(action)](message, action, levels - 1)
    return message


def _write_download(message: bbs_pb2.Action, action: actions.DownloadAction, _levels: int) -> None:
    message.download_action.CopyFrom(
        bbs_pb2.DownloadAction(
            artifact=action.artifact,
            to=action.to,
            cache_key=action.cache_key,
            log_source=action.log_source,
            user=action.user,
            checksum_algorithm=action.checksum_algorithm,
            checksum_value=action.checksum_value,
            **{"from": action.from_},
        )
    )


def _write_upload(message: bbs_pb2.Action, action: actions.UploadAction, _levels: int) -> None:
    message.upload_action.CopyFrom(
        bbs_pb2.UploadAction(
            artifact=action.artifact,
            to=action.to,
            log_source=action.log_source,
            user=action.user,
            **{"from": action.from_},
        )
    )


def _write_run(message: bbs_pb2.Action, action: actions.RunAction, _levels: int) -> None:
    inner = message.run_action
    inner.path = action.path
    inner.user = action.user
    inner.args.extend(action.args)
    inner.dir = action.dir
    inner.env.extend(variables(action.env))
    inner.log_source = action.log_source
    inner.suppress_log_output = action.suppress_log_output
    limits = action.resource_limits
    if limits.nofile is not None:
        inner.resource_limits.nofile = limits.nofile
    if limits.nproc is not None:
        inner.resource_limits.nproc = limits.nproc


def _write_timeout(message: bbs_pb2.Action, action: actions.TimeoutAction, levels: int) -> None:
    inner = message.timeout_action
    inner.action.CopyFrom(_encode(action.action, levels))
    inner.timeout_ms = action.timeout_ms
    inner.log_source = action.log_source


def _write_emit_progress(message: bbs_pb2.Action, action: actions.EmitProgressAction, levels: int) -> None:
    inner = message.emit_progress_action
    inner.action.CopyFrom(_encode(action.action, levels))
    inner.start_message = action.start_message
    inner.success_message = action.success_message
    inner.failure_message_prefix = action.failure_message_prefix
    inner.log_source = action.log_source


def _write_try(message: bbs_pb2.Action, action: actions.TryAction, levels: int) -> None:
    inner = message.try_action
    inner.action.CopyFrom(_encode(action.action, levels))
    inner.log_source = action.log_source


def _write_group(
    message: bbs_pb2.Action,
    action: actions.ParallelAction | actions.SerialAction | actions.CodependentAction,
    levels: int,
) -> None:
    inner = _group(message, action)
    # An action without members is refused by every board, but it is encoded as what it is.
    inner.SetInParent()
    inner.actions.extend([_encode(member, levels) for member in action.actions])
    inner.log_source = action.log_source


def _group(message: bbs_pb2.Action, action: Action) -> bbs_pb2.SerialAction:
    # The three groups have the same fields.
    if isinstance(action, actions.ParallelAction):
        return cast("bbs_pb2.SerialAction", message.parallel_action)
    if isinstance(action, actions.CodependentAction):
        return cast("bbs_pb2.SerialAction", message.codependent_action)
    return message.serial_action


_WRITERS: Final[dict[type[Action], Callable[..., None]]] = {
    actions.DownloadAction: _write_download,
    actions.UploadAction: _write_upload,
    actions.RunAction: _write_run,
    actions.TimeoutAction: _write_timeout,
    actions.EmitProgressAction: _write_emit_progress,
    actions.TryAction: _write_try,
    actions.ParallelAction: _write_group,
    actions.SerialAction: _write_group,
    actions.CodependentAction: _write_group,
}
