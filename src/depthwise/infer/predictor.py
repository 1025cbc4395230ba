"""Images in, classes and probabilities out: preprocessed as in training, whatever form an image comes in."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from depthwise.data.image import DEFAULT, Decoding, ImageInput, UnreadableImageError, decode
from depthwise.data.source import BadImage
from depthwise.data.transform import Preprocess
from depthwise.errors import DepthwiseError, UsageError

SINGLE = (str, os.PathLike, bytes, Image.Image, np.ndarray, Tensor)


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of the image `name`, best first, with their probabilities and class numbers, if any."""

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    indices: tuple[int, ...]


class Predictor:
    """Answers for a trained `module` whose logits [N, K] are for the K `classes`; many threads may call it.

    The module is taken over: moved to `device`, laid out channels-last and set to evaluation mode.
    decoding: how image files are read; the white level is the preprocessing's own.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Preprocess,
        classes: Sequence[str],
        *,
        device: str | torch.device = "cpu",
        decoding: Decoding = DEFAULT,
    ) -> None:
        self.device = torch.device(device)
        self.module = module.to(self.device).to(memory_format=torch.channels_last).eval()
        self.preprocess = preprocess
        self.decoding = replace(decoding, white_level=preprocess.white_level)
        self.classes = tuple(classes)

    # A path is an Iterable[str] too; the first signature is meant for it.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, images: ImageInput, topk: int = ..., batch_size: int = ..., threshold: float = ...
    ) -> Prediction: ...
    @overload
    def __call__(
        self, images: Iterable[ImageInput], topk: int = ..., batch_size: int = ..., threshold: float = ...
    ) -> list[Prediction]: ...

    def __call__(
        self,
        images: ImageInput | Iterable[ImageInput],
        topk: int = 5,
        batch_size: int = 32,
        threshold: float = 0.0,
    ) -> Prediction | list[Prediction]:
        """The Prediction of one image, or those of many in their order.

        An image is a path, the bytes of an image file, a PIL image, an array or a tensor; sizes may differ.
        `topk` above the number of classes gives them all; those below the probability `threshold` are left out, and
        a Prediction may be left without any.

        Raises:
            DepthwiseError: an image cannot be read, or the network's answer is not finite.
            UsageError: `topk` or `batch_size` is below 1, or `threshold` is not from 0 to 1.
        """
        if isinstance(images, SINGLE):
            return self([images], topk, batch_size, threshold)[0]
        predictions = []
        for answer in self.stream(images, topk, batch_size, threshold):
            if isinstance(answer, BadImage):
                raise DepthwiseError(f"{answer.path} cannot be read: {answer.reason}")
            predictions.append(answer)
        return predictions

    def stream(
        self,
        images: Iterable[ImageInput],
        topk: int = 5,
        batch_size: int = 32,
        threshold: float = 0.0,
    ) -> Iterator[Prediction | BadImage]:
        """The answers in the images' order, computed a batch at a time; an unreadable image gives a BadImage.

        Raises UsageError as a call does, DepthwiseError if an answer is not finite.
        """
        for name, value in {"topk": topk, "batch_size": batch_size}.items():
            if value < 1:
                raise UsageError(f"{name} is {value} and must be at least 1")
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold is {threshold} and must be a probability, from 0 to 1")
        numbered = enumerate(images)
        while batch := list(islice(numbered, batch_size)):
            yield from self._answers(batch, min(topk, len(self.classes)), threshold)

    def _answers(
        self, batch: list[tuple[int, ImageInput]], topk: int, threshold: float
    ) -> Iterator[Prediction | BadImage]:
        names = [
            os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {i}" for i, image in batch
        ]
        pixels: list[Tensor] = []
        bad: dict[int, BadImage] = {}
        for k, (_, image) in enumerate(batch):
            try:
                pixels.append(self.preprocess.pixels(decode(image, self.preprocess.channels, self.decoding)))
            except UnreadableImageError as error:
                bad[k] = BadImage(names[k], error.reason)
            except DepthwiseError as error:
                bad[k] = BadImage(names[k], str(error))
        rows = iter(self._probabilities(torch.stack(pixels)) if pixels else ())
        for k, name in enumerate(names):
            yield bad[k] if k in bad else self._prediction(name, next(rows), topk, threshold)

    def _probabilities(self, pixels: Tensor) -> Tensor:
        """uint8 [N, C, h, w] -> float32 [N, K] on the CPU."""
        with torch.inference_mode():
            return self.module(self.preprocess.normalise(pixels.to(self.device))).softmax(1).cpu()

    def _prediction(self, name: str, probabilities: Tensor, topk: int, threshold: float) -> Prediction:
        if not probabilities.isfinite().all():
            raise DepthwiseError(
                f"the network's answer for {name} is not finite, its training diverged or its weights are "
                f"damaged: train again with a lower learning rate"
            )
        # Stable: of two classes with the same probability the lower index ranks first, as in evaluation.
        indices = probabilities.argsort(descending=True, stable=True)[:topk].tolist()
        indices = [index for index in indices if float(probabilities[index]) >= threshold]
        return Prediction(
            name,
            tuple(self.classes[i] for i in indices),
            tuple(probabilities[indices].tolist()),
            tuple(indices),
        )
