"""`depthwise train`: from a data set to a run directory with bundle, metrics and report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from depthwise.bounds import Bounds
from depthwise.cli.manifest import Manifest, asked
from depthwise.cli.options import AllowTruncated, Data, Json, MaxPixels, Nested, RayAddress, SkipBad, flag
from depthwise.cli.output import print_json, say
from depthwise.errors import UsageError
from depthwise.places import find_bundle, locate
from depthwise.train.options import PATIENCE, processes_asked
from depthwise.words import printable, quote_path

if TYPE_CHECKING:
    from depthwise.finished import Run


def train(
    *,
    out: Annotated[Path, Parameter(help="The directory of the run, made anew.")],
    data: Data | None = None,
    model: Annotated[
        str | None, Parameter(help="A network of the catalogue; by default the recipe's own.")
    ] = None,
    recipe: Annotated[
        str | None, Parameter(help="The training recipe to start from [default: small].")
    ] = None,
    settings: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            negative="",
            consume_multiple=True,
            help="key=value, any number: a field of the recipe (epochs=4, optimizer.lr=0.1) or an argument of "
            "the network (width=0.25). early_stop=5 ends the run after 5 evaluations in a row without a better "
            "top-1 on the val part; keep=best puts the weights with the best one into the bundle, keep=last or "
            "averaged those of the end.",
        ),
    ] = None,
    epochs: Annotated[float | None, Parameter(help="Short for --set epochs=E.")] = None,
    minutes: Annotated[
        float | None,
        Parameter(
            help="Instead of epochs: as many as fit into M minutes, by a short measurement, with the evaluations; the "
            "schedule is laid out over them."
        ),
    ] = None,
    seed: Annotated[int | None, Parameter(help="Short for --set seed=S.")] = None,
    simulate: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            help="Asynchronous descent with made-up workers, key=value, any number: workers=60; speed=constant, or "
            "lognormal with spread=0.5 and a seed=0; slow=4, the last takes 4 times as long; bound=80, the largest "
            "staleness that counts; divide=true, the learning rate is divided by the staleness; or backup=4, "
            "synchronous descent that waits for the first 60 of 64.",
        ),
    ] = None,
    asynchronous: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            help="Asynchronous descent with real workers, on the cluster of --ray, key=value, any number: workers=3; "
            "servers=2, which share the network out; bound and divide as in --simulate; "
            "or backup=1, synchronous descent that waits for the first 3 of 4.",
        ),
    ] = None,
    ray: RayAddress = None,
    replay: Annotated[
        Path | None,
        Parameter(help="Do an asynchronous run again, to the same bits, by its pushes.jsonl."),
    ] = None,
    init: Annotated[
        str | None, Parameter(help="Start from this bundle's network and weights; the classes may be others.")
    ] = None,
    freeze: Annotated[bool, flag("Train the classifier only, with --init.")] = False,
    compile: Annotated[bool, flag("Compile the network with torch.compile first.")] = False,
    skip_bad: SkipBad = False,
    nested: Nested = False,
    manifest: Manifest = None,
    max_pixels: MaxPixels = None,
    allow_truncated: AllowTruncated = False,
    workers: Annotated[
        int, Bounds(0, 256), Parameter(help="Processes that read and augment image files.")
    ] = 2,
    checkpoint_minutes: Annotated[
        float, Bounds(0, 1e6), Parameter(help="Save the state so often; 0 = not by time.")
    ] = 5.0,
    checkpoint_steps: Annotated[
        int, Bounds(0, 2**40), Parameter(help="And after so many updates; 0 = not by updates.")
    ] = 0,
    processes: Annotated[
        str,
        Parameter(
            help="Processes on this machine that train together, to the same bits as one by the same --set "
            "virtual_shards=V, by default as many. Several machines: torchrun ... -m depthwise train ..., or --ray, "
            "where MIN:MAX are as many as the cluster has room for."
        ),
    ] = "1",
    patience: Annotated[
        float, Bounds(1, 1e6), Parameter(help="Seconds after which a process that says nothing is given up.")
    ] = PATIENCE,
    device: Annotated[
        str, Parameter(help="cpu, cuda, mps; auto takes an accelerator if there is one.")
    ] = "auto",
    resume: Annotated[
        bool,
        flag(
            "Go on with the run in --out; it knows the rest. --set may change what leaves the updates done as they "
            "are: eval_every, log_every, and epochs where the schedule allows it."
        ),
    ] = False,
    finish: Annotated[
        bool,
        flag(
            "Make bundle and report of the stopped run in --out, as far as it got; --resume can go on later."
        ),
    ] = False,
    force: Annotated[
        bool, flag("Replace the run in --out; with --resume, go on although something changed.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a network on your images and leave a run directory: the bundle, metrics and a report to look at.

    Ctrl-C stops it with a checkpoint; --resume then goes on as if nothing had happened.

    Example: depthwise train --data photos/ --model xception --out runs/first --set epochs=20 width=0.5
    """
    short = {"epochs": epochs, "seed": seed, "freeze": freeze or None, "compile": compile or None}
    given = [(key, value) for key, value in short.items() if value is not None]
    for key, _ in given:
        if any(setting.partition("=")[0].strip() == key for setting in settings or []):
            raise UsageError(f"--{key} and --set {key}=... are the same: give one of them")
    if finish and resume:
        raise UsageError("--finish takes the run in --out as it is: leave --resume out")
    if not (resume or finish):  # before anything heavy is imported
        if data is not None:
            locate(data)
        if init is not None:
            find_bundle(init)
    from depthwise.bounds import parse_setting
    from depthwise.job import Job
    from depthwise.train.asynchronous.service import Service
    from depthwise.train.asynchronous.simulation import Simulation
    from depthwise.train.options import Options

    fewest, most = processes_asked(processes)
    job = Job(
        out=out,
        data=data,
        model=model,
        recipe=recipe,
        settings=[*given, *map(parse_setting, settings or [])],
        init=init,
        minutes=minutes,
        skip_bad=skip_bad,
        nested=nested,
        max_pixels=max_pixels,
        allow_truncated=allow_truncated or None,
        columns=asked(manifest),
        options=Options(
            workers,
            checkpoint_minutes,
            checkpoint_steps,
            device,
            most,
            patience,
            command=["depthwise", *sys.argv[1:]],
            fewest=fewest,
        ),
        simulate=None if simulate is None else Simulation.of(map(parse_setting, simulate)),
        replay=replay,
        asynchronous=None if asynchronous is None else Service.of(map(parse_setting, asynchronous)),
        ray=ray,
    )
    run = job.do("resume" if resume else "finish" if finish else "start", force=force)
    from depthwise.train.world import leads

    if not leads():
        return
    _show(run, json=json)


def _show(run: "Run", *, json: bool) -> None:
    """What came of a run."""
    if json:
        result = run.result
        document = {
            "out": str(run.out),
            "split": result.split,
            "weights": result.weights,
            "step": result.step,
        }
        print_json({**document, "seconds": result.seconds, **run.evaluation.to_json()})
        return
    say(run.summary)
    say(f"report:  {printable(str(run.out))}/report.html")
    say(f"predict: depthwise predict {quote_path(run.out)} IMAGE")
