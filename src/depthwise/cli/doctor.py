"""`depthwise doctor`: why a run does not learn."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from depthwise.cli.options import Json
from depthwise.cli.output import print_json, say


def doctor(
    run: Annotated[Path, Parameter(help="The directory of a training run, which may still be going on.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Say why a run does not learn: cause, evidence and what to try, from its files alone.

    train says the same while it goes. docs/doctor.md has every cause with its signal.

    Example: depthwise doctor runs/first
    """
    from depthwise.doctor.reading import examine_run

    diagnosis = examine_run(run)
    if json:
        print_json(diagnosis.to_json())
        return
    for finding in diagnosis.findings:
        say(finding.title)
        say(f"  {finding.evidence}")
        say(f"  try: {finding.remedy}")
    if not diagnosis.findings:
        say(diagnosis.health)
    say(f"({diagnosis.basis})")
