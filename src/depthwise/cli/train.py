"""`depthwise train`: from a data set to a run directory with bundle, metrics and report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from depthwise.bounds import Bounds
from depthwise.cli.options import AllowTruncated, Data, Json, MaxPixels, Nested, decoding, flag
from depthwise.cli.output import counting, note, print_json, printable, say
from depthwise.errors import DepthwiseError, UsageError, unknown_name
from depthwise.places import absolute, find_bundle
from depthwise.words import number_of, quote_path

if TYPE_CHECKING:
    from torch import nn

    from depthwise.bundle import Bundle
    from depthwise.data import Dataset, Decoding
    from depthwise.train.ending import Result
    from depthwise.train.recipe import Recipe

DEFAULT_RECIPE = "small"
FROM_DATA = ("num_classes", "in_channels")


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
    init: Annotated[
        str | None, Parameter(help="Start from this bundle's network and weights; the classes may be others.")
    ] = None,
    freeze: Annotated[bool, flag("Train the classifier only, with --init.")] = False,
    compile: Annotated[bool, flag("Compile the network with torch.compile first.")] = False,
    skip_bad: Annotated[
        bool, flag("Leave unreadable images out however many they are; over 1% of them stop a training.")
    ] = False,
    nested: Nested = False,
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
    short = {
        "epochs": None if epochs is None else f"{epochs:g}",
        "seed": seed,
        "freeze": freeze or None,
        "compile": compile or None,
    }
    given = [f"{key}={value}" for key, value in short.items() if value is not None] + (settings or [])
    if finish and (resume or recipe or model or init or given):
        raise UsageError(
            "--finish takes the run in --out as it is: leave --resume, --init, --recipe, --model and settings out"
        )
    if minutes is not None:
        from depthwise.train.budget import check_minutes

        check_minutes(minutes, resume=resume or finish)
    if minutes is not None and any(setting.startswith("epochs=") for setting in given):
        raise UsageError(
            "--minutes takes as many epochs as fit, and epochs asks for a number of them: leave one of them out"
        )
    if freeze and not (init or resume):
        raise UsageError(
            "--freeze trains the classifier alone, on a network that knows nothing: add --init BUNDLE"
        )
    bundle: Bundle | None = None
    before: Recipe | None = None
    known: dict[str, Any] = {}
    if resume or finish:
        before, data, known = _before(out, recipe, model, data)
    else:
        data, bundle = _asked(recipe, model, data, init)
    _check_settings(given, before.model if before else bundle.config.model if bundle else model)

    from depthwise.cli.progress import TrainProgress
    from depthwise.train.run import Options
    from depthwise.train.run import train as run

    read = decoding(max_pixels, allow_truncated, known.get("decoding"))
    dataset = _open(data, workers, read, skip_bad=skip_bad, nested=nested, before=known)
    chosen = before or _chosen(recipe, model, dataset, bundle)
    chosen = chosen.override(given, _model_arguments(chosen.model))
    if dataset.deep and (text := dataset.deep.note(chosen.white_level)):
        note(text)
    try:
        module = _build(chosen, dataset, bundle)
    except UsageError as error:
        if not before or given:
            raise
        raise DepthwiseError(f"{out}/run.json: {error}") from None
    result = run(
        chosen,
        module,
        dataset,
        out,
        options=Options(
            workers=workers,
            checkpoint_minutes=checkpoint_minutes,
            checkpoint_steps=checkpoint_steps,
            device=device,
            command=["depthwise", *sys.argv[1:]],
            spec=data,
        ),
        resume=resume,
        finish=finish,
        force=force,
        minutes=minutes,
        watcher=TrainProgress(),
    )
    _print(result, as_json=json)


def _asked(
    recipe: str | None, model: str | None, data: str | None, init: str | None
) -> "tuple[str, Bundle | None]":
    """The data set's name from whatever directory, and what to start from.

    What cannot be is refused before the images are looked over, and what takes the least to find out first.
    """
    if data is None:
        raise UsageError("--data is missing: name a folder of images, or digits or fashion-mnist")
    # A run is resumed, and its data named in the report, from other directories too.
    data = absolute(data)
    if init is not None:
        find_bundle(init)
    from depthwise.models import CATALOGUE

    if model is not None and model not in CATALOGUE:
        raise unknown_name("model", model, CATALOGUE)
    from depthwise.recipes import find_recipe

    find_recipe(recipe or DEFAULT_RECIPE)
    if init is None:
        return data, None
    from depthwise.bundle import read_bundle

    bundle = read_bundle(init)
    if model not in (None, bundle.config.model):
        raise UsageError(
            f"{bundle.path} holds weights of {bundle.config.model}, not of {model}: leave --model out"
        )
    return data, bundle


def _chosen(recipe: str | None, model: str | None, dataset: "Dataset", bundle: "Bundle | None") -> "Recipe":
    """The recipe by its name, settled for this data set and for the network asked for: that of `bundle`, if any."""
    from dataclasses import replace

    from depthwise.recipes import Traits, find_recipe

    chosen = find_recipe(recipe or DEFAULT_RECIPE)(Traits.of(dataset))
    if bundle:
        config = bundle.config
        arguments = {name: value for name, value in config.model_args.items() if name not in FROM_DATA}
        return replace(chosen, model=config.model, model_args=arguments, **vars(config.preprocess))
    if model in (None, chosen.model):
        return chosen
    # Another network than the recipe was written for takes those of its arguments that it knows.
    known = _model_arguments(model)
    arguments = {name: value for name, value in chosen.model_args.items() if name in known}
    return replace(chosen, model=model, model_args=arguments)


def _before(
    out: Path, recipe: str | None, model: str | None, data: str | None
) -> "tuple[Recipe, str, dict[str, Any]]":
    """What the run in `out` was started with; the data, of which the last says what the run knew, may have moved."""
    from depthwise.models import CATALOGUE
    from depthwise.train.files import RunFiles
    from depthwise.train.recipe import Recipe

    if recipe or model:
        raise UsageError(
            "--resume goes on with the run's own recipe and network: leave --recipe and --model out"
        )
    before = RunFiles(out).read_run()
    chosen, spec = Recipe.from_json(before["recipe"]), data or before["data"]["spec"]
    if chosen.model not in CATALOGUE:
        raise DepthwiseError(f"{out}/run.json: {unknown_name('model', chosen.model, CATALOGUE)}")
    return chosen, absolute(spec), before["data"]


def _check_settings(given: list[str], model: str | None) -> None:
    """Refuse what no recipe has, nor the network, as soon as that is known; None: of which only the data decide."""
    from depthwise.models import CATALOGUE
    from depthwise.train.recipe import check_settings

    models = CATALOGUE if model is None else [model]
    check_settings(given, {name for model in models for name in _model_arguments(model)})


def _model_arguments(model: str) -> list[str]:
    """What may be set of the network; the number of classes and of channels follow from the data."""
    import inspect

    from depthwise.models import CATALOGUE

    return [name for name in inspect.signature(CATALOGUE[model].builder).parameters if name not in FROM_DATA]


def _open(
    data: str,
    workers: int,
    decoding: "Decoding",
    *,
    skip_bad: bool,
    nested: bool,
    before: "dict[str, Any]",
) -> "Dataset":
    """The data set; as the run divided it and named its classes that goes on, if `before` says so."""
    from depthwise.data import open_dataset
    from depthwise.data.dataset import require_trainable
    from depthwise.data.sources.folder import MAX_BAD_FRACTION

    seed = before.get("seed")
    with counting("looking images over") as progress:
        dataset = open_dataset(
            data,
            seed=seed if type(seed) is int else 0,
            workers=max(1, workers),
            progress=progress,
            max_bad=1.0 if skip_bad else MAX_BAD_FRACTION,
            nested=nested or before.get("nested") is True,
            decoding=decoding,
        )
    for text in dataset.notes:
        note(text)
    for text in dataset.repeated:
        note(f"problem: {text}")
    if dataset.ignored_kinds:
        note(f"ignored: {', '.join(dataset.ignored_kinds)}")
    if dataset.bad:
        first = dataset.bad[0]
        left_out = number_of(len(dataset.bad), "unreadable image is", "unreadable images are")
        note(f"{left_out} left out, {first.path} ({first.reason}) for one")
    if before and dataset.num_trusted:
        note(
            f"{number_of(dataset.num_trusted, 'file')} not read again, size, times and inode being as they were: "
            f"`depthwise data check {quote_path(data)}{' --nested' if dataset.nested else ''}` reads every one"
        )
    require_trainable(dataset)
    return dataset


def _build(recipe: "Recipe", dataset: "Dataset", bundle: "Bundle | None") -> "nn.Module":
    import torch

    from depthwise.models import create_model
    from depthwise.ship.load import transfer

    torch.manual_seed(recipe.seed)
    module = create_model(
        recipe.model,
        num_classes=len(dataset.classes),
        in_channels=recipe.channels or dataset.channels,
        **recipe.model_args,
    )
    if bundle:
        kept = transfer(bundle, module, dataset.classes)
        note(f"starting from {bundle.path}" + ("" if kept else ", with a new classifier for the new classes"))
    if not any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        note(
            f"{recipe.model} has no batch norm, and learning rates for networks that have it are too high for it: if "
            f"the loss stays where it is, try --set optimizer.lr={recipe.optimizer.lr / 10:g}"
        )
    return module


def _print(result: "Result", *, as_json: bool) -> None:
    evaluation, out = result.evaluation, str(result.out)
    if as_json:
        document: dict[str, Any] = {
            "out": out,
            "split": result.split,
            "weights": result.weights,
            "step": result.step,
        }
        print_json({**document, "seconds": result.seconds, **evaluation.to_json()})
        return
    of_step = f" of step {result.step:,}" if result.weights == "best" else ""
    say(
        f"{evaluation.top1:.2%} of {number_of(evaluation.num_images, f'{result.split} image')} are right "
        f"({result.weights} weights{of_step}, {result.seconds:,.0f} s)"
    )
    say(f"report:  {printable(out)}/report.html")
    say(f"predict: depthwise predict {quote_path(out)} IMAGE")
