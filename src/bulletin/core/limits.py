"""Every bound of the system, with its unit in the name and its reason beside it (design promise S12).

Settings may move some of them; these are the defaults and the hard ends. A queue, a wait or a size without a row
here is a defect.
"""

from __future__ import annotations

from typing import Final

# -- requests ---------------------------------------------------------------------------------------------------
#: A desire carries a whole action tree and files; hundreds of kB are normal, more than this is no accident.
REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
#: Bodies up to here are parsed as they are; parsed, they may take fifty times as much memory.
UNSCANNED_REQUEST_BYTES_MAX: Final = 256 * 1024
#: Fields of a larger body, those of messages in it included; a definition with 10,000 variables has 30,000.
REQUEST_FIELDS_MAX: Final = 200_000
#: A request in JSON: it takes many times longer to read than protobuf, and the board waits meanwhile.
JSON_REQUEST_BYTES_MAX: Final = 256 * 1024
#: Arrays and objects in each other: an action takes up to three levels, a task definition is at level two.
JSON_DEPTH_MAX: Final = 150
#: Problems named in one refusal, so that a request of empty entries is not answered with a longer text than it sent.
PROBLEMS_MAX: Final = 1000
#: aiohttp's own default of 8 KiB a line is plenty; clients of the BBS send five headers.
HEADER_BYTES_MAX: Final = 16 * 1024
#: From the first byte of a request (or of a connection) to its last: a client slower than this is cut off.
REQUEST_READ_SECONDS_MAX: Final = 30.0
#: Above the Go client's idle limit of 90 s, so that a reused connection is never closed under a POST (board-api 1.1).
KEEPALIVE_SECONDS: Final = 120.0
#: Connections of all clients together; beyond it new ones are closed at once.
CONNECTIONS_MAX: Final = 10_000
#: Connections whose TLS handshake is not done: if all of them go on at once the loop stands still for 0.2 s.
HANDSHAKES_MAX: Final = 300
#: From accepting a connection to the end of its handshake; on a good line it takes a tenth of a second.
HANDSHAKE_SECONDS_MAX: Final = 10.0

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
#: root_fs: an image's URL with its host, name and digest takes a few hundred at most.
ROOTFS_CHARACTERS_MAX: Final = 8192
#: Addresses, networks and ranges in all egress rules of a task; each becomes an element of a firewall's set.
EGRESS_DESTINATIONS_MAX: Final = 10_000
#: Live tasks a board holds in memory; a desire beyond it is refused rather than risking the board.
TASKS_MAX: Final = 1_000_000

# -- board ------------------------------------------------------------------------------------------------------
#: Undelivered events of one subscriber; the next one ends its stream (board-api 11.3).
SUBSCRIBER_EVENTS_MAX: Final = 1024
#: The events that our own stream can resume from, all together; their number is a setting.
EVENT_RING_BYTES_MAX: Final = 64 * 1024 * 1024
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
#: Attempts remembered with a task, the newest: those of a few kicks, without a row that grows until the task expires.
CALLBACK_ATTEMPTS_KEPT: Final = 20
#: Redirects followed in one attempt (board-api section 8).
CALLBACK_REDIRECTS_MAX: Final = 10
#: An answer's body is read and thrown away up to here, so that the connection can be used again.
CALLBACK_RESPONSE_BYTES_MAX: Final = 64 * 1024
#: For that body, after the header has told all there is to know; a connection that is slower is closed.
CALLBACK_DRAIN_SECONDS_MAX: Final = 2.0
#: The header of an answer with all interim ones before it; servers send a few hundred bytes.
CALLBACK_HEADER_BYTES_MAX: Final = 64 * 1024
#: Connections kept open for the next callback: all together, to one origin, and for how long.
CALLBACK_IDLE_CONNECTIONS_MAX: Final = 1000
CALLBACK_ORIGIN_IDLE_CONNECTIONS_MAX: Final = 200
CALLBACK_IDLE_SECONDS_MAX: Final = 60.0
#: Names of callbacks asked for at once, each in a thread that may wait for the name server as long as that likes.
CALLBACK_LOOKUPS_MAX: Final = 256
#: Addresses of a name that are kept and tried; more are no more likely to answer.
CALLBACK_ADDRESSES_MAX: Final = 8
#: Delivered tasks removed between two looks at the rest of the world.
CALLBACK_REMOVALS_MAX: Final = 256
#: One value of a log line; what is longer says no more to whoever reads it (board-api 14.1, max_data_string_length).
LOG_STRING_CHARACTERS_MAX: Final = 640
#: A traceback in a log line: its last twenty or so calls.
LOG_EXCEPTION_CHARACTERS_MAX: Final = 8192
#: Lines of the access log that wait for a slow disk; more are dropped and counted.
ACCESS_LOG_WAITING_BYTES_MAX: Final = 8 * 1024 * 1024
#: Domains that are exposed one by one as metrics; clients make them up, and a scraper keeps each for ever.
METRIC_DOMAINS_MAX: Final = 1000
#: A line of the event stream as a client reads it: two tasks of the largest kind, in base64.
EVENT_LINE_BYTES_MAX: Final = 4 * (REQUEST_BYTES_MAX + 1024 * 1024) * 2 // 3
#: A completion callback as a receiver reads it: a result, a reason and an annotation, every byte escaped.
CALLBACK_REQUEST_BYTES_MAX: Final = 1024 * 1024

#: Definitions that stand in memory once for all tasks that have them, and what all of them may take.
SHARED_DEFINITIONS_MAX: Final = 1024
SHARED_DEFINITIONS_BYTES_MAX: Final = 8 * 1024 * 1024
#: A larger one is seldom desired twice.
SHARED_DEFINITION_BYTES_MAX: Final = 64 * 1024

# -- cell -------------------------------------------------------------------------------------------------------
#: Containers being made or destroyed at once (cell.md section 9: create and delete pools).
CONTAINER_OPERATIONS_MAX: Final = 32
#: Containers of one cell (cell.md section 9: garden's 250 less the one of the health check).
CONTAINERS_MAX: Final = 249
#: Environment and arguments of one process; the kernel's own bound is 2 MiB for both together.
PROCESS_ARGUMENT_BYTES_MAX: Final = 1024 * 1024
#: One argument or variable of a process: the kernel's MAX_ARG_STRLEN, the ending zero included.
PROCESS_STRING_BYTES_MAX: Final = 128 * 1024
#: /etc/passwd and /etc/group of an image: tens of thousands of users; read anew for each process.
ACCOUNT_FILE_BYTES_MAX: Final = 1024 * 1024
#: Files given to a task with its definition, all together: credentials of services, a few kB; they lie in memory.
MOUNTED_FILES_BYTES_MAX: Final = 1024 * 1024
#: One command of the container runtime. It takes some 5 ms; on a machine out of memory or disk time, seconds.
ENGINE_SECONDS_MAX: Final = 30.0
#: A killed container until the last of its processes is gone; a large one has much memory to give back.
CONTAINER_KILL_SECONDS_MAX: Final = 10.0
#: After a process has ended, output that others of its container still hold open is waited for so long.
OUTPUT_DRAIN_SECONDS_MAX: Final = 1.0
#: failure_reason as a cell reports it (cell.md 1.2, 9).
CELL_REASON_CHARACTERS_MAX: Final = 10_000
#: One image, fetched or unpacked: the largest stacks in use are about 3 GB unpacked.
IMAGE_BYTES_MAX: Final = 8 * 1024 * 1024 * 1024
#: Files of one unpacked image; large language stacks have 100,000 to 200,000.
IMAGE_ENTRIES_MAX: Final = 1_000_000
#: Layers of one image; the builders in use stop at 127.
IMAGE_LAYERS_MAX: Final = 500
#: A manifest or a configuration; registries refuse manifests over 4 MiB.
IMAGE_DOCUMENT_BYTES_MAX: Final = 4 * 1024 * 1024
#: Images in a cell's store, so that its index stays a file that is read in a moment.
IMAGES_MAX: Final = 5_000
#: One try to fetch an image, and the same again to unpack it.
IMAGE_PULL_SECONDS_MAX: Final = 900.0
#: Tries to fetch one image for one request.
IMAGE_PULL_ATTEMPTS_MAX: Final = 3
#: Images fetched or unpacked at once: the work is bound by disk and processor.
IMAGE_PULLS_MAX: Final = 3
#: Memory (address space) of a tool that reads an image; they need some hundred MB at most.
IMAGE_TOOL_MEMORY_BYTES_MAX: Final = 8 * 1024 * 1024 * 1024
#: For the lock two processes share on the store; it is held for the time of a few renames.
IMAGE_STORE_LOCK_SECONDS: Final = 30.0
#: The cell's journal between two rewritings; what is not settled may make it longer.
JOURNAL_BYTES_MAX: Final = 4 * 1024 * 1024
#: From asking the board for leave until it is taken for lost (cell.md 1.3, "expired container").
START_ANSWER_SECONDS_MAX: Final = 60.0
#: Making a container, its image fetched and unpacked included, however often that is tried again.
PREPARE_SECONDS_MAX: Final = 4 * IMAGE_PULL_SECONDS_MAX
#: Starting one process in a container.
SPAWN_SECONDS_MAX: Final = 60.0
#: Reading the result file.
RESULT_READ_SECONDS_MAX: Final = 60.0
#: One try to destroy a container.
DESTROY_SECONDS_MAX: Final = 60.0
#: The longest pause between two tries to destroy a container.
DESTROY_PAUSE_SECONDS_MAX: Final = 30.0
#: Dialling the board, and the first frame from it.
LINK_OPEN_SECONDS_MAX: Final = 10.0
#: The longest pause between two tries to reach the board; a board that is back is found within it (L6).
LINK_PAUSE_SECONDS_MAX: Final = 2.0
#: Frames that may wait for the board to read them; beyond this the link is dropped and everything is said again.
LINK_WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
#: Tasks a cell knows of at once: its containers, and outcomes the board has not acknowledged.
CELL_TASKS_MAX: Final = 20_000

# -- client -----------------------------------------------------------------------------------------------------
#: Connections of one client to its board, streams included; a call beyond them waits for one.
CLIENT_CONNECTIONS_MAX: Final = 100
#: An answer of more bytes is refused unread; protobuf itself ends at 2 GiB.
CLIENT_ANSWER_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024 - 1
#: Requests under way at once when the waits of a client look at their tasks after a stream was cut.
CLIENT_RECHECKS_MAX: Final = 8
