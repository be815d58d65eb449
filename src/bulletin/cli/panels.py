"""Tasks and events as people read them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bulletin.cli.printing import harmless, make_table, print_table, show_age, show_size_mb, stdout_console
from bulletin.cli.rendering import definition_value
from bulletin.core.model import CallbackAttempt, Task, TaskState
from bulletin.core.operations import Event, TaskChanged, TaskCreated

__all__ = ["print_task", "print_tasks", "show_event", "show_time"]

_STYLES: Final = {TaskState.PENDING: "yellow", TaskState.RUNNING: "cyan"}
#: More of a reason than this makes a table unreadable; ``task get`` has all of it.
_REASON_CHARACTERS_MAX: Final = 60
#: Fields of a definition that ``task get`` shows by name already, or better.
_SHOWN_APART: Final = frozenset({"root_fs", "memory_mb", "disk_mb", "max_pids", "action", "environment_variables"})


def show_time(time_ns: int) -> str:
    """Nanoseconds since the epoch as local time, to the millisecond; 0 is ``-``, never."""
    if time_ns == 0:
        return "-"
    return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")


def show_state(task: Task) -> Text:
    """The state, and of an ended task whether it succeeded."""
    if task.state in _STYLES:
        return Text(task.state.label, _STYLES[task.state])
    word = "failed" if task.failed else "succeeded"
    return Text(f"{task.state.label}, {word}", "red" if task.failed else "green")


def print_tasks(tasks: Sequence[Task]) -> None:
    """A table of tasks."""
    now_ns = time.time_ns()
    rows = [
        (
            task.guid,
            task.domain,
            show_state(task),
            task.cell_id or "-",
            show_age((now_ns - task.created_at) / 1e9),
            show_size_mb(task.definition.memory_mb),
            task.definition.rootfs,
            _shorten(task.failure_reason or task.rejection_reason),
        )
        for task in tasks
    ]
    columns = ("GUID", "DOMAIN", "STATE", "CELL", "AGE", "MEMORY", "ROOTFS", "REASON")
    print_table(columns, rows, right=frozenset({"AGE", "MEMORY"}))


def print_task(task: Task, attempts: Sequence[CallbackAttempt], *, show_secrets: bool) -> None:
    """Everything about a task, in a panel; ``attempts`` are those to tell its callback."""
    definition = definition_value(task, show_secrets=show_secrets)
    facts: list[tuple[str, RenderableType]] = [
        ("state", show_state(task)),
        ("domain", _text(task.domain)),
        ("cell", _text(task.cell_id or "-")),
        ("created", Text(show_time(task.created_at))),
        ("updated", Text(show_time(task.updated_at))),
        ("completed", Text(show_time(task.first_completed_at))),
    ]
    if task.failure_reason:
        facts.append(("failure", _text(task.failure_reason)))
    if task.rejection_count:
        facts.append(("rejected", _text(f"{task.rejection_count} times, last: {task.rejection_reason}")))
    if task.result:
        facts.append(("result", _lines(task.result)))
    limits = (
        f"memory {show_size_mb(task.definition.memory_mb)}, disk {show_size_mb(task.definition.disk_mb)}, "
        f"pids {task.definition.max_pids or '-'}"
    )
    what: list[tuple[str, RenderableType]] = [
        ("rootfs", _text(task.definition.rootfs)),
        ("limits", Text(limits)),
        ("action", _lines("\n".join(describe_action(definition.get("action", {}))))),
    ]
    what.extend(
        ("env", _text(f"{variable.get('name', '')}={variable.get('value', '')}"))
        for variable in definition.get("environment_variables", ())
    )
    what.extend((name, _text(_compact(value))) for name, value in definition.items() if name not in _SHOWN_APART)
    parts: list[RenderableType] = [_facts(facts), Text(), _facts(what)]
    if attempts:
        parts += [Text(), _attempts(attempts)]
    body = Group(*parts)
    stdout_console().print(Panel(body, title=_text(f"task {task.guid}"), title_align="left", expand=False))


def _attempts(attempts: Sequence[CallbackAttempt]) -> Table:
    """A line for each attempt at a callback, the oldest first."""
    table = make_table()
    for column in ("CALLBACK", "TOOK", "STATUS", "OUTCOME"):
        table.add_column(column, justify="right" if column == "TOOK" else "left", overflow="fold")
    for attempt in attempts:
        table.add_row(
            Text(show_time(attempt.at)),
            Text(f"{attempt.duration_ns / 1e6:.0f} ms"),
            Text(str(attempt.status) if attempt.status else "-"),
            Text(harmless(attempt.problem), "red") if attempt.problem else Text("told", "green"),
        )
    return table


def describe_action(action: dict[str, Any], depth: int = 0) -> list[str]:
    """An action tree as indented lines, one for each action. ``action`` is its JSON."""
    margin = "  " * depth
    for name, fields in action.items():
        kind = name.removesuffix("_action")
        inner = [fields["action"]] if "action" in fields else fields.get("actions", [])
        lines = [f"{margin}{kind} {_describe_fields(kind, fields)}".rstrip()]
        for child in inner:
            lines.extend(describe_action(child, depth + 1))
        return lines
    return [f"{margin}nothing"]


def _describe_fields(kind: str, fields: dict[str, Any]) -> str:
    if kind == "run":
        command = " ".join([fields.get("path", ""), *fields.get("args", ())])
        rest = {name: value for name, value in fields.items() if name not in {"path", "args", "env", "user"}}
        variables = [f"{item.get('name', '')}={item.get('value', '')}" for item in fields.get("env", ())]
        words = [f"{command}  as {fields.get('user', '')}"]
        words += [f"env {' '.join(variables)}"] if variables else []
        words += [f"{name} {_compact(value)}" for name, value in rest.items()]
        return "  ".join(words)
    shown = {name: value for name, value in fields.items() if name not in {"action", "actions"}}
    return "  ".join(f"{name} {_compact(value)}" for name, value in shown.items())


def show_event(event: Event, at_ns: int) -> str:
    """An event in one line: when, what, which task, and what changed."""
    task = event.after if isinstance(event, TaskChanged) else event.task
    if isinstance(event, TaskChanged):
        what, detail = "changed", f"{event.before.state.label} -> {event.after.state.label}"
        if event.after.rejection_count > event.before.rejection_count:
            detail += f"  rejected: {_shorten(event.after.rejection_reason)}"
    else:
        what = "created" if isinstance(event, TaskCreated) else "removed"
        detail = task.state.label
    words = [show_time(at_ns), f"{what:<7}", harmless(task.guid), detail]
    if task.cell_id:
        words.append(f"cell {harmless(task.cell_id)}")
    if task.state in (TaskState.COMPLETED, TaskState.RESOLVING):
        words.append(f"failed: {_shorten(task.failure_reason)}" if task.failed else "succeeded")
    return "  ".join(words)


def _facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _text(value: str) -> Text:
    return Text(harmless(value))


def _lines(value: str) -> Text:
    return Text("\n".join(harmless(line) for line in value.split("\n")))


def _shorten(reason: str) -> str:
    line = harmless(reason)
    return line if len(line) <= _REASON_CHARACTERS_MAX else line[: _REASON_CHARACTERS_MAX - 1] + "…"


def _compact(value: object) -> str:
    if isinstance(value, str):
        return value
    import json

    return json.dumps(value, ensure_ascii=False)
