"""A bundle into one whose network runs in its compiled form, checked against the original before it is left behind."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, singledispatch
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.bounds import checked
from depthwise.bundle import Bundle, BundleConfig, kept_free, read_bundle, write_bundle
from depthwise.data import Batches, Dataset
from depthwise.data.dataset import Split
from depthwise.data.image import UnreadableImageError
from depthwise.data.numbering import with_white_level
from depthwise.data.sources.open import open_images
from depthwise.data.spread import evenly
from depthwise.data.transform import Preprocess
from depthwise.errors import DepthwiseError
from depthwise.evaluate.meters import run_meters
from depthwise.infer import Engine, Precision
from depthwise.infer import compile as compile_module
from depthwise.infer.plan import Plan
from depthwise.infer.quantize import to_tensors
from depthwise.ship.load import keeper_of, load_module
from depthwise.ship.measuring import open_part
from depthwise.ship.showing import Showing
from depthwise.tasks import Task
from depthwise.timing import Ratio, in_turns, ratio, seconds, settled
from depthwise.words import number_of

TOLERANCES = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.3}
"""The largest difference of a logit from the original's, relative to the largest logit, that is no mistake of ours."""

WARM_UP, ROUNDS = 2, 15

CALIBRATION_IMAGES = 256
CHECKED_IMAGES = 8


@dataclass(frozen=True)
class Compiled:
    """What compiling came to: the engine that runs it, and the precision it does that in.

    error: the largest difference of a logit, relative to the largest logit, on the images it was checked with.
    speedup: of one image, against the network on PyTorch: the median of interleaved pairs, None where the machine was
    too busy to say, and in speedup_range their tenth and ninetieth percentile; milliseconds: its own.
    layers: in int8, of each convolution the name, its error (see infer/quantize.py) and the precision that it has.
    accuracy: the task's headline number before and after, and agreement: the share of images with the same answer;
    None without a data set. headline: what that number is called.
    asked: the precision that was asked for, and why_not: why it is not that one; None where it is.
    """

    out: Path
    precision: str
    engine: str
    error: float
    milliseconds: float
    speedup: float | None
    speedup_range: tuple[float, float]
    layers: tuple[dict[str, Any], ...] = ()
    num_images: int = 0
    accuracy: tuple[float, float] | None = None
    agreement: float | None = None
    asked: str | None = None
    why_not: str | None = None
    headline: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the bundle's config has it."""
        measured = {
            name: value
            for name, value in vars(self).items()
            if name == "speedup" or (name not in ("out", "headline") and value not in (None, ()))
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in measured.items()}


def compile_bundle(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    engine: Engine = "auto",
    split: Split | None = None,
    calibration: Split | None = None,
    workers: int = 0,
    allow_drop: bool = False,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Compiled:
    """Write the bundle `out`, which is that of `path` to be run in `precision` by `engine`, see `compile`.

    A network that has no native plan is in another precision than int8, which the result and the bundle say.

    With `split`, images whose labels count the bundle's classes, both are evaluated on it first. int8 needs
    `calibration`, of which CALIBRATION_IMAGES are looked at, evenly spread. `tell` hears what is being done.

    Raises DepthwiseError, and writes nothing, if the network has no compiled form, if its answers differ from the
    original's by more than the precision explains, or if more than half a point of accuracy is lost, unless
    `allow_drop`.
    """
    bundle = read_bundle(path)
    module, preprocess = load_module(bundle), bundle.config.preprocess
    images = preprocess.normalise(_images(bundle, precision, calibration)).contiguous()
    x = images[:CHECKED_IMAGES]
    tell(f"compiling in {precision}")
    fast = compile_module(
        module,
        x[:1],
        precision=precision,
        engine=engine,
        calibration=images,
        lower=keeper_of(bundle).lower,
    )
    error = _error(module, fast, x)
    asked, precision = precision, fast.precision
    if not error <= TOLERANCES[precision]:
        raise DepthwiseError(
            f"{bundle.path}: compiled in {precision} its logits differ by {error:.2g} of the largest, more than "
            f"{TOLERANCES[precision]:g}: compile it in fp32"
        )
    in_int8 = fast.plan.layout.roundings if isinstance(fast.plan, Plan) else {}
    layers = tuple(
        {
            "name": name,
            "error": rounding.error,
            "precision": "int8" if name in in_int8 else "bf16",
        }
        for name, rounding in fast.roundings.items()
    )
    tell("timing it and PyTorch in turns")
    milliseconds, speed = settled(lambda: _time(module, fast, x[:1]), lambda timed: timed[1].spread)
    result = Compiled(
        Path(out),
        precision,
        fast.engine,
        error,
        milliseconds,
        speed.times,
        (speed.tenth, speed.ninetieth),
        layers,
    )
    if precision != asked:
        result = replace(result, asked=asked, why_not=fast.dropped["native"])
    if split is not None:
        before = _evaluate(module, bundle, split, workers, lambda far: tell(f"accuracy before: {far}"))
        after = _evaluate(fast, bundle, split, workers, lambda far: tell(f"accuracy after: {far}"))
        task = bundle.config.build_task()
        result = _with_accuracy(result, task, before, after)
        if not allow_drop and (loss := task.loss_of_precision(before, after)):
            raise DepthwiseError(
                f"compiled in {precision} {loss}: compile it in another precision, or accept it with --allow-drop"
            )
    config = replace(bundle.config, compiled=result.to_json())
    roundings = to_tensors(fast.roundings) if precision == "int8" else None
    write_bundle(
        out, config, bundle.weights, roundings=roundings, examples_of=bundle.path, overwrite=overwrite
    )
    return result


@checked
def compile_for(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    engine: Engine = "auto",
    data: str | os.PathLike[str] | Dataset | None = None,
    calibrate: str | os.PathLike[str] | Dataset | None = None,
    ignore_unknown: bool = False,
    workers: int = 2,
    allow_drop: bool = False,
    force: bool = False,
    showing: Showing | None = None,
) -> Compiled:
    """As `compile_bundle`, from what data sets are called: `depthwise compile` in Python.

    data: the accuracy is measured on it, before and after. calibrate: int8 is read off it, by default the training part
    of `data`. force: replace the bundle `out`.
    """
    showing = showing or Showing()
    with kept_free(out, overwrite=force):
        split = calibration = None
        config = read_bundle(path).config
        if data is not None:
            measured = open_part(data, config, None, workers, ignore_unknown=ignore_unknown, showing=showing)
            split, parts = measured.split, measured.dataset.splits
            calibration = parts.get("train", split)
            if precision == "int8" and calibrate is None and len(parts) == 1:
                showing.note(
                    "int8 is calibrated on the images that it is then measured on: --calibrate takes others"
                )
        if calibrate is not None:
            calibration = _images_of(calibrate, config, workers, showing)
        with showing.status("reading the bundle") as tell:
            return compile_bundle(
                path,
                out,
                precision=precision,
                engine=engine,
                split=split,
                calibration=calibration if precision == "int8" else None,
                workers=workers,
                allow_drop=allow_drop,
                overwrite=force,
                tell=tell,
            )


@singledispatch
def compile(network: Any, /, *arguments: Any, **options: Any) -> Any:
    """The fast form of a network: of the bundle or run at a path, in a new bundle `out`, with the options of
    `depthwise compile` (see `compile_for`); of an nn.Module and an example, in memory (see `infer.compile`)."""
    return compile_module(network, *arguments, **options)


compile.register(str, compile_for)
compile.register(os.PathLike, compile_for)


def _images_of(
    data: str | os.PathLike[str] | Dataset, config: BundleConfig, workers: int, showing: Showing
) -> Split:
    """The training part of `data`, or all of it if it has none; their labels do not matter."""
    with showing.counting("looking images over") as progress:
        images = open_images(
            data,
            channels=config.preprocess.channels,
            workers=max(1, workers),
            progress=progress,
            kept_columns=config.training.get("columns"),
        )
    for text in images.notes:
        showing.note(text)
    if not images.splits:
        raise DepthwiseError(f"{data} holds no image that can be read: give others with --calibrate")
    return images.splits.get("train") or next(iter(images.splits.values()))


def _with_accuracy(result: Compiled, task: Task, before: Any, after: Any) -> Compiled:
    return replace(
        result,
        num_images=before.num_images,
        headline=task.headline.name,
        accuracy=(task.headline.of(before), task.headline.of(after)),
        agreement=task.agreement(before, after),
    )


def _images(bundle: Bundle, precision: Precision, calibration: Split | None) -> Tensor:
    """uint8 [N, C, h, w]: those that int8 is calibrated on, or a few of noise, which other precisions take as well."""
    preprocess = bundle.config.preprocess
    if precision != "int8":
        shape = (CHECKED_IMAGES, *preprocess.shape)
        return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    if calibration is None:
        raise DepthwiseError("int8 is calibrated on images like those to come: give --data or --calibrate")
    return _sample(calibration, preprocess)


def _sample(split: Split, preprocess: Preprocess) -> Tensor:
    """uint8 [N, C, h, w], evenly spread over the split; what cannot be read is passed over."""
    found = []
    split = with_white_level(split, preprocess.white_level)
    places = evenly(range(len(split)), CALIBRATION_IMAGES)
    for place in places:
        try:
            found.append(preprocess.pixels(split.image(place)))
        except UnreadableImageError:
            continue
    if not found:
        raise DepthwiseError(
            f"none of {len(places)} images to calibrate on can be read: give others with --calibrate"
        )
    return torch.stack(found)


def _error(module: nn.Module, fast: nn.Module, x: Tensor) -> float:
    with torch.inference_mode():
        expected = module(x)
        return float((fast(x) - expected).abs().max() / expected.abs().max())


def _time(module: nn.Module, fast: nn.Module, x: Tensor) -> tuple[float, Ratio]:
    """Milliseconds of the fast one, and how many times as fast as the other it is."""
    x = x.contiguous(memory_format=torch.channels_last)
    networks = {"module": module.to(memory_format=torch.channels_last), "fast": fast}
    runs = {name: partial(seconds, partial(network, x)) for name, network in networks.items()}
    with torch.inference_mode():
        in_turns(runs, WARM_UP)
        taken = in_turns(runs, ROUNDS)
    return 1e3 * median(taken["fast"]), ratio(taken["module"], taken["fast"])


def _evaluate(
    network: nn.Module, bundle: Bundle, split: Split, workers: int, tell: Callable[[str], None]
) -> Any:
    task = bundle.config.build_task()
    batches = Batches(
        split, bundle.config.preprocess, batch_size=32, workers=workers, prepare=task.prepare(None)
    )
    try:
        return run_meters(
            network,
            batches,
            task.meters(),
            progress=lambda done, total: tell(f"{done:,} of {number_of(total, 'batch', 'batches')}"),
        )
    finally:
        batches.close()
