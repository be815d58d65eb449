"""``bulletin doctor``: whether this machine can run containers, and the command that mends what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import Parameter

from bulletin.cli import printing
from bulletin.cli.exits import FAILED, OK
from bulletin.cli.options import DEFAULT_DATA, DataDirectory, Json, quiet_logs, run_async

if TYPE_CHECKING:
    from bulletin.cell.runtime.probe import Finding

__all__ = ["EPILOGUE", "doctor"]

EPILOGUE: Final = """\
Runs one container to be sure, and leaves nothing behind. Exit status: 0 when
containers can run here, 1 when something they need is missing.

Examples:
  bulletin doctor
  bulletin doctor --json | jq -r 'select(.ok | not) | .mend'"""


def doctor(
    *,
    data: DataDirectory = DEFAULT_DATA,
    engine: Annotated[
        Literal["auto", "crun", "runc"],
        Parameter(env_var="BULLETIN_ENGINE", help="The OCI runtime to try.", show_default=True),
    ] = "auto",
    json: Json = False,
) -> int:
    """Check whether this machine can run containers; with --json one check a line."""
    from bulletin.cell.runtime.probe import probe
    from bulletin.cell.runtime.settings import ContainersSettings

    quiet_logs()
    findings = run_async(probe(ContainersSettings(data=data / "cell", cell_id="doctor", engine=engine)))
    if json:
        for finding in findings:
            printing.print_json(_value(finding))
    else:
        _print(findings)
    return FAILED if any(finding.required and not finding.ok for finding in findings) else OK


def _value(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "ok": finding.ok,
        "required": finding.required,
        "found": finding.found,
        "mend": finding.mend,
    }


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    rows = []
    for finding in findings:
        word, style = _verdict(finding)
        rows.append((Text(word, style), finding.check, finding.found, finding.mend))
    printing.print_table(("", "CHECK", "FOUND", "TRY"), rows)


def _verdict(finding: Finding) -> tuple[str, str]:
    if finding.ok:
        return "ok", "green"
    return ("missing", "bold red") if finding.required else ("could be better", "yellow")
