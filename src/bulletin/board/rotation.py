"""Changing the key that definitions are sealed with, while the board serves (board-api.md section 13).

The store remembers with which keys its rows may be sealed: ``encryption_key_label`` names the key that a rotation has
brought all of them to ("" for clear text), ``encryption_key_labels_begun`` those that later rows may be sealed with as
well, because a rotation to them has begun. ``encryption_key_proofs`` holds a known text sealed with each. A board
that lacks one of these keys, or has another passphrase for it, does not start: to it the rows would be broken, and
convergence deletes broken rows.

A rotation writes down that it begins, before the first row is sealed with the new key; then rewrites every row, in
slices; then writes down that it is done, in one transaction with forgetting the beginning. Wherever it ends early, the
next start goes on: rewriting a row twice is harmless. There is no way back to clear text.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final

import structlog

from bulletin.board.settings import BoardSettings
from bulletin.board.writer import Writer
from bulletin.core.errors import TaskError
from bulletin.seams import Clock
from bulletin.store import PlainSealer, Sealer, Unsealable

__all__ = ["LABEL", "LABELS_BEGUN", "PROOFS", "KeyMissing", "Rotation", "check_keys", "make_sealer"]

log = structlog.get_logger("bulletin.board.rotation")

LABEL: Final = "encryption_key_label"
LABELS_BEGUN: Final = "encryption_key_labels_begun"
PROOFS: Final = "encryption_key_proofs"
_PROVEN: Final = b"bulletin"
#: Rows sealed and committed at once; a slice takes the loop about a millisecond.
_SLICE_TASKS: Final = 100


class KeyMissing(Exception):
    """Rows of the store may be sealed with a key this board does not have; the text names its label."""


def make_sealer(settings: BoardSettings) -> Sealer:
    """What definitions pass through on their way into the store."""
    if not settings.encryption_keys:
        return PlainSealer()
    from bulletin.store.sealing import KeySealer

    return KeySealer(settings.encryption_keys, settings.active_key_label)


def check_keys(configurations: Mapping[str, str], settings: BoardSettings) -> None:
    """Insist on every key that a row of the store may be sealed with.

    Args:
        configurations: what the store remembers about itself.
        settings: whose ``encryption_keys`` they are looked for in.

    Raises:
        KeyMissing: one of them is not there, or is another one under the same label.
    """
    needed = _labels(configurations) - {""}
    missing = sorted(needed - settings.encryption_keys.keys())
    if missing:
        names = ", ".join(repr(label) for label in missing)
        raise KeyMissing(
            f"tasks of the store are sealed with the encryption key labelled {names}, and this board was not given it; "
            "add it to the file of --encryption-keys (it may go once a board has rotated every task to another key)"
        )
    sealer = make_sealer(settings)
    for label, proof in sorted(_proofs(configurations).items()):
        try:
            sealer.open(proof.encode())
        except Unsealable as error:
            raise KeyMissing(
                f"tasks of the store were sealed with another passphrase than the encryption key labelled {label!r} "
                "has now; a passphrase never changes, a new one gets a new label"
            ) from error


class Rotation:
    """Brings every row to the active key; does nothing when they are there already.

    Args:
        on_done: told how many seconds a rotation took.
    """

    def __init__(
        self,
        writer: Writer,
        clock: Clock,
        settings: BoardSettings,
        configurations: Mapping[str, str],
        on_done: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._sealer = make_sealer(settings)
        self._active = settings.active_key_label
        self._stored = configurations.get(LABEL, "")
        self._begun = _labels(configurations) - {self._stored}
        self._proofs = _proofs(configurations)
        self._on_done = on_done

    @property
    def is_due(self) -> bool:
        """Whether some row may be sealed with another key than the active one."""
        return self._stored != self._active or bool(self._begun)

    async def begin(self) -> None:
        """Write down that rows are going to be sealed with the active key; before the first of them is.

        Raises:
            TaskError: the commit was lost.
        """
        if self.is_due and self._active not in {self._stored, *self._begun}:
            self._begun = self._begun | {self._active}
            proofs = {**self._proofs, **self._proof()}
            await self._writer.configure({LABELS_BEGUN: json.dumps(sorted(self._begun)), PROOFS: json.dumps(proofs)})

    async def run(self) -> None:
        """Rewrite every row there is, after ``begin``; a failure is logged, and the next start tries again."""
        if not self.is_due:
            return
        began = self._clock.monotonic()
        log.info("rotation.started", from_label=self._stored, to_label=self._active, tasks=len(self._writer.tasks))
        try:
            count = 0
            for guids in _slices(list(self._writer.tasks)):
                count += await self._writer.rewrite(guids)
                await asyncio.sleep(0)
            # A row that cannot be read is not rewritten; whatever sealed it, no key opens it.
            proofs = json.dumps(self._proof())
            await self._writer.configure({LABEL: self._active, LABELS_BEGUN: "[]", PROOFS: proofs})
        except TaskError as error:
            log.warning("rotation.failed", to_label=self._active, error=error.message)
            return
        self._stored, self._begun = self._active, frozenset()
        seconds = self._clock.monotonic() - began
        log.info("rotation.done", to_label=self._active, tasks=count, seconds=round(seconds, 3))
        self._on_done(seconds)

    def _proof(self) -> dict[str, str]:
        """The active key's."""
        return {self._active: self._sealer.seal(_PROVEN).decode()}


def _labels(configurations: Mapping[str, str]) -> frozenset[str]:
    """Every label that a row of the store may be sealed with; "" stands for clear text."""
    begun = json.loads(configurations.get(LABELS_BEGUN, "[]"))
    assert isinstance(begun, list), "only this module writes it"
    return frozenset({configurations.get(LABEL, ""), *(str(label) for label in begun)})


def _proofs(configurations: Mapping[str, str]) -> dict[str, str]:
    """Label to a known text sealed with that key."""
    proofs = json.loads(configurations.get(PROOFS, "{}"))
    assert isinstance(proofs, dict), "only this module writes it"
    return {str(label): str(proof) for label, proof in proofs.items()}


def _slices(guids: list[str]) -> Iterator[list[str]]:
    remaining = iter(guids)
    while part := list(islice(remaining, _SLICE_TASKS)):
        yield part
