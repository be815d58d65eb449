"""Every bound of the system, with its unit in the name and its reason beside it (design promise S12).

Settings may move some of them; these are the defaults and the hard ends. A queue, a wait or a size without a row
here is a defect.
"""

from __future__ import annotations

from typing import Final

# -- requests ---------------------------------------------------------------------------------------------------
#: A desire carries a whole action tree and files; hundreds of kB are normal, more than this is no accident.
REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
#: aiohttp's own default of 8 KiB a line is plenty; clients of the BBS send five headers.
HEADER_BYTES_MAX: Final = 16 * 1024
#: From the first byte of a request (or of a connection) to its last: a client slower than this is cut off.
REQUEST_READ_SECONDS_MAX: Final = 30.0
#: Above the Go client's idle limit of 90 s, so that a reused connection is never closed under a POST (board-api 1.1).
KEEPALIVE_SECONDS: Final = 120.0
#: Connections of all clients together; beyond it new ones are closed at once.
CONNECTIONS_MAX: Final = 10_000

# -- tasks ------------------------------------------------------------------------------------------------------
#: guid, domain and cell_id: the column width of the reference (board-api 4.3).
IDENTIFIER_CHARACTERS_MAX: Final = 255
#: board-api 5.2; bytes, not characters.
ANNOTATION_BYTES_MAX: Final = 10_240
#: failure_reason and rejection_reason of this many bytes or more are cut (board-api 6).
REASON_BYTES_MAX: Final = 1024
#: cell.md C2: exactly this many is fine, one more is an error, never a truncation.
RESULT_BYTES_MAX: Final = 51_200
#: Levels of actions in actions. protobuf reads messages 100 deep and each level of actions takes two.
ACTION_DEPTH_MAX: Final = 45
#: Actions in one tree, so that a few bytes a step cannot buy unbounded processes.
ACTION_COUNT_MAX: Final = 1000
#: Live tasks a board holds in memory; a desire beyond it is refused rather than risking the board.
TASKS_MAX: Final = 1_000_000

# -- board ------------------------------------------------------------------------------------------------------
#: Undelivered events of one subscriber; the next one ends its stream (board-api 11.3).
SUBSCRIBER_EVENTS_MAX: Final = 1024
#: Changes in one transaction: keeps the commit, and so the pause of the loop, short.
COMMIT_CHANGES_MAX: Final = 1000
#: Changes that may wait for a commit; a change beyond them is refused with UnknownError.
UNCOMMITTED_CHANGES_MAX: Final = 20_000
#: Cells with a live link.
CELLS_MAX: Final = 5_000
#: One frame of the link: an assignment carries a definition, an outcome a result and the tail of the output.
LINK_FRAME_BYTES_MAX: Final = REQUEST_BYTES_MAX + 1024 * 1024
#: Output kept of a task after its end, the newest bytes.
OUTPUT_BYTES_MAX: Final = 256 * 1024
#: One line of output (cell.md section 9).
LOG_LINE_BYTES_MAX: Final = 61_440
#: Callbacks under way at once (board-api section 8, task_callback_workers) and waiting for a worker.
CALLBACK_WORKERS: Final = 1000
CALLBACK_QUEUE_MAX: Final = 100_000
#: Attempts in one delivery (board-api section 8).
CALLBACK_ATTEMPTS_MAX: Final = 3
#: Redirects followed in one attempt (board-api section 8).
CALLBACK_REDIRECTS_MAX: Final = 10
#: An answer's body is read and thrown away up to here, so that the connection can be used again.
CALLBACK_RESPONSE_BYTES_MAX: Final = 64 * 1024

# -- cell -------------------------------------------------------------------------------------------------------
#: Containers being made or destroyed at once (cell.md section 9: create and delete pools).
CONTAINER_OPERATIONS_MAX: Final = 32
#: Containers of one cell (cell.md section 9: garden's 250 less the one of the health check).
CONTAINERS_MAX: Final = 249
#: Environment and arguments of one process; the kernel's own bound is 2 MiB for both together.
PROCESS_ARGUMENT_BYTES_MAX: Final = 1024 * 1024
#: failure_reason as a cell reports it (cell.md 1.2, 9).
CELL_REASON_CHARACTERS_MAX: Final = 10_000
