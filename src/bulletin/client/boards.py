"""Which boards a client knows, which of them it asks first, and how long it bears that none answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from yarl import URL

__all__ = ["Board", "Boards", "Patience"]

#: There are two dozen routes; the paths with a guid in them need not be remembered.
_PATHS_MAX: Final = 64


class Board:
    """The address of one board.

    Raises:
        ValueError: ``url`` is not one of a board.
    """

    __slots__ = ("_paths", "url")

    def __init__(self, url: str) -> None:
        parsed = URL(url)
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            msg = f"{url!r} is not the URL of a board; write for example http://127.0.0.1:8889"
            raise ValueError(msg)
        #: Without the trailing slash, which would make every path unknown (board-api.md 1.1).
        self.url = url.rstrip("/")
        self._paths: dict[str, URL] = {}

    def locate(self, path: str) -> URL:
        """The URL of a path of the API."""
        located = self._paths.get(path)
        if located is None:
            located = URL(self.url + path, encoded=True)
            if len(self._paths) < _PATHS_MAX:
                self._paths[path] = located
        return located


class Boards:
    """A board and its standbys, of which one serves at a time. The one that answered last is asked first.

    Args:
        urls: one URL, several separated by commas, or a sequence of them.

    Raises:
        ValueError: there is none, or one of them is not the URL of a board.
    """

    def __init__(self, urls: str | Sequence[str]) -> None:
        texts = urls.split(",") if isinstance(urls, str) else urls
        # One that stands twice would be asked twice in a row.
        boards = [Board(url) for url in dict.fromkeys(text.strip() for text in texts) if url]
        if not boards:
            msg = f"{urls!r} is not the URL of a board; write for example http://127.0.0.1:8889"
            raise ValueError(msg)
        #: All boards once, beginning with each.
        self._rounds = [tuple(boards[index:] + boards[:index]) for index in range(len(boards))]
        self._first = 0

    def __len__(self) -> int:
        return len(self._rounds)

    @property
    def url(self) -> str:
        """Of the board that is asked first."""
        return self._rounds[self._first][0].url

    @property
    def urls(self) -> tuple[str, ...]:
        """All, as they were given."""
        return tuple(board.url for board in self._rounds[0])

    def round(self) -> tuple[Board, ...]:
        """Every board once, in the order to ask them."""
        return self._rounds[self._first]

    def note_answer(self, board: Board) -> None:
        """``board`` answered: ask it first."""
        self._first = self._rounds[0].index(board)

    def note_failure(self, board: Board) -> None:
        """``board`` did not answer: if it was to be asked first, ask the one after it first."""
        if self._rounds[self._first][0] is board:
            self._first = (self._first + 1) % len(self._rounds)


class Patience:
    """How long to go on when nobody answers: for so many attempts, and for so many seconds from now, whichever is more.

    Args:
        attempts: at least 1.
        seconds: 0 counts the attempts alone.
    """

    __slots__ = ("_attempts", "_until")

    def __init__(self, attempts: int, seconds: float) -> None:
        self._attempts = attempts
        self._until = asyncio.get_running_loop().time() + seconds

    def is_spent(self) -> bool:
        """Whether to give up; to be asked once after each attempt that failed."""
        self._attempts -= 1
        return self._attempts <= 0 and asyncio.get_running_loop().time() >= self._until
