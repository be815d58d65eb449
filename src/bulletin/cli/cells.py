"""``bulletin cells``: the cells a board sees, and what is taken of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bulletin.cli import printing
from bulletin.cli.exits import OK
from bulletin.cli.options import Connection, Json, with_client

if TYPE_CHECKING:
    from bulletin.client.aio import AsyncClient

__all__ = ["EPILOGUE", "cells"]

EPILOGUE: Final = """\
Examples:
  bulletin cells
  bulletin cells --json | jq .capacity"""


def cells(*, json: Json = False, connection: Connection | None = None) -> int:
    """List the cells that are present, and what running tasks take of them; with --json one cell a line."""
    from bulletin.cli.rendering import cell_value
    from bulletin.core.model import TaskState

    async def work(client: AsyncClient) -> list[dict[str, object]]:
        present = await client.cells()
        running = [task for task in await client.tasks() if task.state is TaskState.RUNNING]
        return [
            cell_value(cell, [task for task in running if task.cell_id == cell.cell_id])
            for cell in sorted(present, key=lambda cell: cell.cell_id)
        ]

    found = with_client(connection, work)
    if json:
        for cell in found:
            printing.print_json(cell)
    elif found:
        _print_cells(found)
    else:
        printing.say("no cell is present; start one with `bulletin cell --board URL` or `bulletin up`")
    return OK


def _print_cells(found: list[dict[str, Any]]) -> None:
    rows = []
    for cell in found:
        used, total = cell["used"], cell["capacity"]
        providers = [
            name if not members else f"{name}:{','.join(members)}" for name, members in cell["rootfs_providers"].items()
        ]
        rows.append(
            (
                cell["cell_id"],
                cell["zone"] or "-",
                *(
                    f"{printing.show_size_mb(used[name]).replace('-', '0')} / {printing.show_size_mb(total[name])}"
                    for name in ("memory_mb", "disk_mb")
                ),
                f"{used['containers']} / {total['containers']}",
                " ".join(providers) or "-",
                " ".join([*cell["placement_tags"], *(f"({tag})" for tag in cell["optional_placement_tags"])]) or "-",
            )
        )
    columns = ("CELL", "ZONE", "MEMORY", "DISK", "CONTAINERS", "ROOTFS", "TAGS")
    printing.print_table(columns, rows, right=frozenset({"MEMORY", "DISK", "CONTAINERS"}))
