"""A piece answered, wherever that is done: by the same network on the same batches, so with the same bits."""

import io
import os
from dataclasses import dataclass
from typing import Any

from depthwise.batch.forms import document, write_as
from depthwise.batch.pictures import Pictures, each_of
from depthwise.bundle import CONFIG, digest
from depthwise.data import BadImage
from depthwise.data.image import Decoding
from depthwise.errors import DepthwiseError
from depthwise.infer import Predictor
from depthwise.infer.eventual import FEW, Eventual
from depthwise.places import find_bundle
from depthwise.ship.load import load
from depthwise.words import inert


@dataclass(frozen=True)
class Asked:
    """What is asked of every image, in plain values.

    bundle: its folder; bundle_digest: the SHA-256 of its config, which has those of its weights. many: whether there
    are so many images that the native kernels pay: they run from the first image then, so that no answer depends on
    which images a process has answered before. form: of the files; exact: whether names stay that look like formulas.
    """

    bundle: str
    bundle_digest: str
    decoding: Decoding
    topk: int | None = None
    threshold: float | None = None
    batch_size: int = 32
    engine: Any = "auto"
    precision: Any = None
    many: bool = True
    form: str = "jsonl"
    exact: bool = False


def asked_of(bundle: str, images: int, **options: Any) -> Asked:
    """The `options` of so many images, for the bundle that is there now."""
    folder = os.path.abspath(find_bundle(bundle))
    return Asked(folder, digest(find_bundle(folder) / CONFIG), many=images > FEW, **options)


def predictor_of(asked: Asked) -> Predictor:
    """Raises DepthwiseError if another bundle is there by now, or none."""
    if digest(find_bundle(asked.bundle) / CONFIG) != asked.bundle_digest:
        raise DepthwiseError(
            f"{asked.bundle} is another bundle than the one that was asked: give the command again, with --force"
        )
    predictor = load(asked.bundle, engine=asked.engine, precision=asked.precision, decoding=asked.decoding)
    if asked.many and isinstance(predictor.module, Eventual):
        predictor.module.few = 0
    return predictor


@dataclass(frozen=True)
class Answered:
    """A piece's file, and how many of its images have no answer."""

    content: bytes
    num_bad: int


def answered(asked: Asked, predictor: Predictor, found: Pictures) -> Answered:
    """The answers to all images of `found`. Raises DepthwiseError if one is not finite."""
    pictures = [*each_of([found])]
    images = [picture.image for picture in pictures if not isinstance(picture.image, BadImage)]
    answers = predictor.stream(images, asked.topk, asked.batch_size, asked.threshold)
    documents = [
        document(name, image if isinstance(image, BadImage) else next(answers)) for name, image in pictures
    ]
    file = io.BytesIO()
    write_as(asked.form, documents, file, str if asked.exact else inert)
    return Answered(file.getvalue(), sum("error" in each for each in documents))
