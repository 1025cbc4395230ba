"""`depthwise import`: weights from Keras, timm and torchvision into a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from depthwise.cli.options import Json, flag
from depthwise.cli.output import note, print_json, say
from depthwise.errors import UsageError
from depthwise.reading import read_regular
from depthwise.words import number_of, quote_path

if TYPE_CHECKING:
    from depthwise.ship.importing import Imported


def import_(
    source: Annotated[
        str,
        Parameter(
            help="A .keras, .weights.h5, .h5, .safetensors or .pth file, the .index.json of several, a folder from the "
            "hub with model.safetensors or pytorch_model.bin, or a name: torchvision:resnet50, "
            "timm:legacy_xception.tf_in1k."
        ),
    ],
    /,
    *,
    model: Annotated[str, Parameter(help="The network of the catalogue that the weights are of.")],
    out: Annotated[Path, Parameter(help="The bundle folder to write.")],
    classes: Annotated[
        Path | None, Parameter(help="A text file with the names of the classes, one a line, in their order.")
    ] = None,
    interpolation: Annotated[
        str | None,
        Parameter(help="How the training resized its images: nearest, bilinear or bicubic."),
    ] = None,
    mean: Annotated[
        tuple[float, ...],
        Parameter(
            help="The mean that the training took from images, as a part of the full range: one number, or one a "
            "channel. For torchvision's Inception trained without transform_input: 0.485 0.456 0.406.",
            consume_multiple=True,
            negative=(),
            show_default=False,
        ),
    ] = (),
    std: Annotated[
        tuple[float, ...],
        Parameter(
            help="The deviation that it divided by, likewise.",
            consume_multiple=True,
            negative=(),
            show_default=False,
        ),
    ] = (),
    weights: Annotated[
        Literal["raw", "ema"] | None,
        Parameter(
            help="Of a checkpoint that keeps averaged weights beside the raw: which to take. The averaged ones (ema), "
            "unless it is given, as timm does."
        ),
    ] = None,
    backbone: Annotated[bool, flag("Leave the head out: a bundle to begin a training with.")] = False,
    force: Annotated[bool, flag("Replace the bundle that --out names.")] = False,
    json: Json = False,
) -> None:
    """Make a bundle of other projects' weights; it predicts as they do at home, preprocessing included.

    Nothing in the file is run. Weights that do not fit are named and nothing is written.

    Example: depthwise import flowers.keras --model xception --out flowers --classes flowers.txt
    """
    names = _names(classes) if classes else ()
    from depthwise.bundle import kept_free
    from depthwise.ship.importing import import_weights

    with kept_free(out, overwrite=force):
        result = import_weights(
            source,
            model,
            out,
            classes=names,
            interpolation=interpolation,
            mean=mean,
            std=std,
            weights=weights,
            backbone=backbone,
            force=force,
        )
    for text in result.notes:
        note(text)
    if json:
        print_json(_document(result))
        return
    size = "x".join(map(str, result.config.preprocess.size))
    what = (
        number_of(len(result.config.classes), "class", "classes") if result.config.classes else "a backbone"
    )
    say(f"{model} from {result.source}, {what}, images of {size}")
    say(
        f"predict: depthwise predict {quote_path(out)} IMAGE"
        if result.config.classes
        else f"train:   depthwise train --init {quote_path(out)} --data FOLDER --out RUN"
    )


def _names(path: Path) -> tuple[str, ...]:
    try:
        lines = read_regular(path).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text: save the class names as UTF-8, one a line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UsageError(f"{path} holds no class names: write one a line")
    return names


def _document(result: "Imported") -> dict[str, Any]:
    return {
        "out": str(result.out),
        "source": result.source,
        "notes": list(result.notes),
        **result.config.to_json(),
    }
