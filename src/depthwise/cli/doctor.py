"""`depthwise doctor`: why a run does not learn."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from depthwise.cli.options import Json, Workers, flag
from depthwise.cli.output import print_json, say, status
from depthwise.errors import UsageError
from depthwise.writing import check_free


def doctor(
    run: Annotated[Path, Parameter(help="The directory of a training run, which may still be going on.")],
    /,
    *,
    overfit: Annotated[bool, flag("Try whether fresh weights learn one batch by heart.")] = False,
    lr_range: Annotated[
        bool, flag("Try learning rates from far too low to far too high on fresh weights, and suggest one.")
    ] = False,
    plot: Annotated[
        Path | None, Parameter(help="With --lr-range, the loss by learning rate: FILE.svg or FILE.png.")
    ] = None,
    force: Annotated[bool, flag("Replace the file that --plot names.")] = False,
    workers: Workers = 2,
    device: Annotated[
        str, Parameter(help="cpu, cuda, mps; auto takes an accelerator if there is one.")
    ] = "auto",
    json: Json = False,
) -> None:
    """Say why a run does not learn: cause, evidence and what to try, from its files alone.

    train says the same while it goes. docs/doctor.md has every cause with its signal. --overfit and --lr-range train
    for up to 300 and 100 updates and need the run's data.

    Example: depthwise doctor runs/first --lr-range --plot rates.svg
    """
    if plot is not None and not lr_range:
        raise UsageError(f"--plot {plot} draws what --lr-range finds: add --lr-range")
    if plot is not None and plot.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"{plot} ends in neither .svg nor .png, which can be drawn: name it {plot.stem}.svg")
    if plot is not None:
        check_free(plot, force)
    from depthwise.doctor.reading import examine_run

    diagnosis = examine_run(run)
    checks: list[tuple[str, Any]] = []
    if overfit or lr_range:
        from depthwise.doctor import checks as tried

        with status("opening the run's data") as tell:
            subject = tried.Subject.of(run, workers, device)
            if overfit:
                checks.append(("overfit", tried.overfit(subject, tell)))
            if lr_range:
                checks.append(("lr_range", found := tried.rate_range(subject, tell)))
                if plot is not None:
                    tried.plot(found, plot)
    if json:
        print_json(diagnosis.to_json() | {name: asdict(check) for name, check in checks})
        return
    for finding in diagnosis.findings:
        say(finding.title)
        say(f"  {finding.evidence}")
        say(f"  try: {finding.remedy}")
    if not diagnosis.findings:
        say(diagnosis.health)
    say(f"({diagnosis.basis})")
    for _, check in checks:
        say(check.sentence)
    if plot is not None:
        say(f"{plot}: the loss by learning rate")
