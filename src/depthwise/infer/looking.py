"""What a Predictor shows besides its answers: the features of images, and where the network looked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from depthwise.errors import DepthwiseError, unknown_name
from depthwise.heat import Heat, check_classes, heats
from depthwise.infer.insides import Insides, insides

if TYPE_CHECKING:
    from depthwise.infer.predictor import Prediction, Predictor


@dataclass(frozen=True, eq=False)
class Cam:
    """What a network says of a picture, uint8 [C, H, W] upright, and where it looked.

    heats: one for each class of the `prediction` in its order, for the likeliest if it names none, or for those asked
    for.
    """

    prediction: "Prediction"
    picture: Tensor
    heats: tuple[Heat, ...]

    def overlay(self, number: int = 0) -> Image.Image:
        """The picture with the heat of that number over it, in RGB."""
        return self.heats[number].overlay(self.picture)


class Asked(NamedTuple):
    """Which classes a prediction names, and whose heat is wanted, if not theirs."""

    topk: int | None
    threshold: float | None
    classes: Sequence[int] | None


def numbers_of(names: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """The numbers of the classes of these names. Raises UsageError for one that there is not."""
    for name in names or ():
        if name not in classes:
            raise unknown_name("class", name, classes)
    return None if names is None else [classes.index(name) for name in names]


def features(predictor: "Predictor", names: Sequence[str], pixels: Sequence[Tensor]) -> Iterator[np.ndarray]:
    """Of each image, uint8 [C, h, w]: float32 [D]. Raises DepthwiseError if there are none, or they are not finite."""
    for name, row in zip(names, _inside(predictor, pixels, last=False).features.float().cpu(), strict=True):
        if not row.isfinite().all():
            raise DepthwiseError(
                f"the features of {name} are not finite, the network's training diverged or its weights are damaged: "
                f"train again with a lower learning rate"
            )
        yield row.numpy()


def cams(
    predictor: "Predictor", asked: Asked, names: Sequence[str], read: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[Cam]:
    """Of each picture and its uint8 [C, h, w]. Raises DepthwiseError as `Predictor.cam` does."""
    found = _inside(predictor, [pixels for _, pixels in read], last=True)
    last, head = found.last, found.head
    assert last is not None
    assert head is not None
    answers = predictor.task.answer(found.output).float().cpu()
    for number, (name, (picture, _)) in enumerate(zip(names, read, strict=True)):
        prediction, chosen = _chosen(predictor, asked, name, answers[number])
        check_classes(chosen, found.output.shape[1])
        size = picture.shape[1], picture.shape[2]
        made = heats(chosen, last[number], found.output[number], head, size, predictor.preprocess)
        yield Cam(prediction, picture, tuple(made))


def _chosen(
    predictor: "Predictor", asked: Asked, name: str, probabilities: Tensor
) -> "tuple[Prediction, Sequence[int]]":
    """What is said of an image with these `probabilities`, float32 [K], and the classes whose heat that asks for."""
    prediction = predictor.prediction(name, probabilities, asked.topk, asked.threshold)
    likeliest = int(probabilities.sort(descending=True).indices[0])
    return prediction, asked.classes or prediction.indices or [likeliest]


def shows(predictor: "Predictor") -> bool:
    """Whether what runs the network shows where it looked, in the pass that answers; found out by such a pass."""
    nothing = torch.zeros((1, *predictor.preprocess.shape), dtype=torch.uint8)
    found = _made(predictor, predictor.module, nothing)
    return found is not None and found.last is not None and found.output.shape[1] >= len(predictor.classes)


def answer_and_heats(
    predictor: "Predictor", asked: Asked, pixels: Tensor, size: tuple[int, int], most: int
) -> tuple[Tensor, tuple[Heat, ...]]:
    """The output for one image, float32 [outputs], and the heats of the first `most` classes that `asked` means.

    pixels: uint8 [C, h, w] of a picture of `size`, height and width. The predictor `shows` where the network looked.
    Raises DepthwiseError if the answer is not finite.
    """
    found = _made(predictor, predictor.module, pixels[None])
    assert found is not None
    last, head = found.last, found.head
    assert last is not None
    assert head is not None
    _, chosen = _chosen(predictor, asked, "the image", predictor.task.answer(found.output)[0].float().cpu())
    made = heats(chosen[:most], last[0], found.output[0], head, size, predictor.preprocess)
    return found.output[0].cpu(), tuple(made)


def _made(predictor: "Predictor", module: nn.Module, pixels: Tensor) -> Insides | None:
    """What `module` makes of uint8 [N, C, h, w], if it shows that."""
    with torch.inference_mode():
        return insides(module, predictor.preprocess.normalise(pixels.to(predictor.device)))


def _inside(predictor: "Predictor", pixels: Sequence[Tensor], *, last: bool) -> Insides:
    """What the network makes of images, uint8 [C, h, w] each; `last`: with its last map."""
    together = torch.stack(list(pixels))
    found = _made(predictor, predictor.module, together)
    if found is None or (last and found.last is None):
        found = _made(predictor, predictor.shown, together)
    if found is None or (last and found.last is None):
        raise DepthwiseError(
            f"{type(predictor.module).__name__} does not show its {'last map' if last else 'features'}: load a bundle, "
            f"or give the network that it was made from"
        )
    return found
