"""`depthwise experiment`: the paper's tables, figures and open questions, each by one command."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from depthwise.bounds import Bounds
from depthwise.cli.manifest import Manifest, asked
from depthwise.cli.options import Json, RayAddress, command, flag
from depthwise.cli.output import console, note, print_json, say, status, table
from depthwise.errors import UsageError, unknown_name
from depthwise.places import locate
from depthwise.words import duration, number_of, printable

if TYPE_CHECKING:
    from depthwise.comparison.rehearsal import Rehearsal
    from depthwise.comparison.results import Results

app = App(name="experiment", help="The paper's tables, figures and open questions, each by one command.")

Name = Annotated[str, Parameter(help="The experiment, as `depthwise experiment list` names it.")]
ScaleName = Annotated[
    str, Parameter(name="--scale", help="mini: minutes; small: a night; paper: the paper's own.")
]


@app.command(name="list")
@command
def list_(*, json: Json = False) -> None:
    """What there is to run, with what each is about.

    Example: depthwise experiment list
    """
    from depthwise.experiments import EXPERIMENTS, claim

    about = {name: claim(name).partition("\n\n")[0].replace("\n", " ") for name in EXPERIMENTS}
    if json:
        print_json([{"name": name, "about": text} for name, text in about.items()])
        return
    rows = table("experiment", "about")
    for name, text in about.items():
        rows.add_row(name, text)
    console().print(rows)
    say("compare takes arms of your own: see depthwise experiment run --help")


@app.command
@command
def show(name: Name, /, *, scale: ScaleName = "mini", json: Json = False) -> None:
    """The claim, the arms with what they cost, and the rule of each verdict, as they are before anything runs.

    Example: depthwise experiment show spectrum --scale paper
    """
    from depthwise.comparison.setting import Setting, find_scale
    from depthwise.experiments import claim, find_experiment
    from depthwise.experiments.own import NAME

    if name == NAME:
        raise UsageError(f"{name} has the arms that it is given: see depthwise experiment run --help")
    build, found = find_experiment(name), find_scale(scale)
    setting = Setting(found, found.data, channels=3 if found.name == "paper" else 1)
    experiment = build(setting)
    own = experiment.setting or setting
    costs = {arm.name: own.cost(arm.recipe) for arm in experiment.arms}
    if json:
        print_json(
            {
                "name": name,
                "question": experiment.question,
                "source": experiment.source,
                "matched": experiment.matched,
                "arms": [
                    {"name": arm.name, **costs[arm.name], "recipe": arm.recipe.to_json()}
                    for arm in experiment.arms
                ],
                "claims": [{"text": claim.text, "rule": claim.rule} for claim in experiment.claims],
            }
        )
        return
    for line in claim(name).splitlines():
        say(line)
    rows = table("arm", "network", "parameters", "MMAC", right=("parameters", "MMAC"))
    for arm in experiment.arms:
        cost = costs[arm.name]
        rows.add_row(arm.name, arm.recipe.model, f"{cost['parameters']:,}", f"{cost['macs'] / 1e6:,.2f}")
    console().print(rows)
    for claim_ in experiment.claims:
        say(f"{claim_.text} The finding {claim_.rule}.")


@app.command
@command
def run(
    name: Name,
    /,
    *,
    out: Annotated[
        Path | None,
        Parameter(help="The directory of the experiment; what is finished in it is not done again."),
    ] = None,
    data: Annotated[
        str | None,
        Parameter(
            help="The images, as for train [default: fashion-mnist; at the scale paper there is none]."
        ),
    ] = None,
    scale: ScaleName = "mini",
    seeds: Annotated[
        int, Bounds(1, 1000), Parameter(help="Each arm is trained with the seeds 0 to N - 1.")
    ] = 3,
    runs: Annotated[
        Path | None,
        Parameter(help="Where the runs lie, which several experiments may share [default: OUT/runs]."),
    ] = None,
    jobs: Annotated[
        int | None,
        Bounds(1, 256),
        Parameter(
            help="Runs at once [default: one a core for small pictures, else one; with --ray as many as there are CPUs "
            "for, each with as many as here]."
        ),
    ] = None,
    workers: Annotated[
        int, Bounds(0, 256), Parameter(help="Processes that read image files, of each run.")
    ] = 0,
    device: Annotated[
        str, Parameter(help="cpu, cuda, mps; auto takes an accelerator if there is one.")
    ] = "auto",
    arm: Annotated[
        list[str] | None,
        Parameter(negative="", help="For compare: NAME='model=xception width=0.5', once for each arm."),
    ] = None,
    match: Annotated[
        Literal["parameters", "macs"] | None,
        Parameter(help="For compare: widths are found at which all arms have those of the first."),
    ] = None,
    ray: RayAddress = None,
    dry_run: Annotated[
        bool,
        flag("Train nothing: a few updates of each arm on made-up images, and how long all would take here."),
    ] = False,
    manifest: Manifest = None,
    force: Annotated[bool, flag("Replace another experiment in --out; runs stay.")] = False,
    json: Json = False,
) -> None:
    """Run an experiment to its report: every arm with every seed, or what of it is not finished yet.

    Ctrl-C stops it with checkpoints; the same command goes on. Runs that are equal are done once. With --ray a cluster
    does the runs, whose directory its nodes must share.

    Example: depthwise experiment run residual --scale mini --data fashion-mnist --seeds 3 --out runs/residual
    """
    build, arms = _built(name, arm, match)
    from depthwise.comparison.conduct import Order, conduct, setting_for
    from depthwise.comparison.jobs import share_of
    from depthwise.comparison.plan import place_of
    from depthwise.comparison.rehearsal import rehearsed
    from depthwise.comparison.setting import find_scale

    found = find_scale(scale)
    if data is None and found.name != "paper":
        data = "fashion-mnist"
    share = share_of(jobs, workers, device, found.name)
    if dry_run:
        if ray is not None:
            raise UsageError("--dry-run measures here, and --ray is for runs: leave one of them out")
        with _Watcher() as watcher:
            rehearsal = rehearsed(build, setting_for(found, data, asked(manifest), watcher), share, watcher)
        _say_rehearsal(rehearsal, seeds, json)
        return
    if out is None:
        raise UsageError("--out is missing: name the directory of the experiment")
    if data is None:
        raise UsageError(
            "--data is missing: name ImageNet's folder, or add --dry-run to see what it would take"
        )
    locate(data)
    order = Order(name, build, scale, data, seeds, asked(manifest), arms)
    with ExitStack() as stack:
        carry = None
        if ray is not None:
            from depthwise.cluster.connection import connected
            from depthwise.cluster.experiments import by_tasks, share_on

            cluster = stack.enter_context(connected(ray))
            share = share_on(cluster, jobs, share_of(None, workers, device, found.name))
            carry = by_tasks(cluster, note)
        watcher = stack.enter_context(_Watcher())
        results = conduct(order, place_of(out, runs), share, watcher, force=force, carry=carry)
    _say(results, out, json)


@app.command
@command
def report(
    out: Annotated[Path, Parameter(help="The directory of an experiment.")], /, *, json: Json = False
) -> None:
    """Write results.json, figures and report.html anew, of the runs that are finished so far.

    Example: depthwise experiment report runs/residual
    """
    from depthwise.comparison.conduct import reported
    from depthwise.comparison.plan import place_of
    from depthwise.errors import DepthwiseError

    place = place_of(out)
    before = place.read()
    if before is None:
        raise DepthwiseError(f"{out} holds no experiment: name the --out of one")
    _say(reported(_build_again(before.name, before.arms), place), out, json)


def _built(name: str, arm: list[str] | None, match: str | None) -> tuple[Any, Any]:
    """How the experiment is built, and the plain values of arms of one's own."""
    from depthwise.experiments import EXPERIMENTS
    from depthwise.experiments.own import NAME, parsed, to_json

    if name != NAME:
        if arm or match:
            raise UsageError(
                f"--arm and --match are for compare, and {name} has its own arms: leave them out"
            )
        if name not in EXPERIMENTS:
            raise unknown_name("experiment", name, [*EXPERIMENTS, NAME])
    arms = to_json(parsed(arm or []), match or "") if name == NAME else None
    return _build_again(name, arms), arms


def _build_again(name: str, arms: Any) -> Any:
    """How the experiment is built that experiment.json names."""
    from depthwise.experiments import find_experiment
    from depthwise.experiments.own import NAME, built

    return built(arms) if name == NAME else find_experiment(name)


class _Watcher:
    """Lines on standard error, and on a terminal what is being done right now."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._now: Callable[[str], None] = lambda text: None

    def __enter__(self) -> "_Watcher":
        self._now = self._stack.enter_context(status("looking over the images"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def message(self, text: str) -> None:
        note(text)

    def now(self, text: str) -> None:
        self._now(text)

    def looking(self, done: int, total: int) -> None:
        self._now(f"looking over the images: {done:,} of {total:,}")


def _say(results: "Results", out: Path, as_json: bool) -> None:
    from depthwise.comparison.report import speed_tables

    if as_json:
        print_json(results.to_json())
        return
    metrics = results.experiment.metrics
    numbers = ("parameters", "MMAC", *(metric.name for metric in metrics))
    rows = table("arm", *numbers, right=numbers)
    for arm in results.experiment.arms:
        cost = results.cost(arm)
        outcomes = results.of[arm.name]
        means = [m.shown(fmean(map(m.of, outcomes))) if outcomes else "" for m in metrics]
        rows.add_row(arm.name, f"{cost['parameters']:,}", f"{cost['macs'] / 1e6:,.2f}", *means)
    console().print(rows)
    for times in speed_tables(results):
        _say_times(times)
    for finding in results.findings():
        say(f"{finding.verdict}: {finding.claim} {finding.sentence}.")
    say(f"report:  {printable(str(out))}/report.html")


def _say_times(times: dict[str, Any]) -> None:
    numbers = ("ms an image", f"times as fast as {times['first']}", "paper, steps/s")
    rows = table(times["kind"], *numbers, right=numbers)
    for row in times["rows"]:
        rows.add_row(row["arm"], f"{row['milliseconds']:.3g}", row["times"], str(row["paper"] or ""))
    console().print(rows)


def _say_rehearsal(rehearsal: "Rehearsal", seeds: int, as_json: bool) -> None:
    if as_json:
        print_json(rehearsal.to_json(seeds))
        return
    numbers = ("parameters", "updates", "s an update", "a run")
    rows = table("arm", *numbers, right=numbers)
    for each in rehearsal.arms:
        row = (
            f"{each.parameters:,}",
            f"{each.updates:,}",
            f"{each.update:.3g}",
            duration(each.seconds),
        )
        rows.add_row(each.name, *row)
    console().print(rows)
    took = duration(rehearsal.seconds(seeds))
    say(f"all arms with {number_of(seeds, 'seed')} take about {took} here, without evaluations")
    if fewer := sorted({(each.timed, each.images) for each in rehearsal.arms if each.timed < each.images}):
        parts = ", ".join(f"{timed} of {images:,}" for timed, images in fewer)
        say(f"updates were timed with fewer images ({parts}), and are reckoned in proportion to them")
