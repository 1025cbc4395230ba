"""From images in any form to classes and probabilities, preprocessed as in training."""

import copy
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from depthwise.data.dataset import BadImage
from depthwise.data.image import DEFAULT, Decoding, ImageInput, decode
from depthwise.data.transform import Preprocess
from depthwise.errors import DepthwiseError, UsageError
from depthwise.infer import looking
from depthwise.infer.streaming import streamed
from depthwise.tasks import DEFAULT as SINGLE_LABEL
from depthwise.tasks import find_task
from depthwise.words import number_of

Given = ImageInput | Callable[[], ImageInput]
"""An image, or what gives it when its turn has come."""

SINGLE = (str, os.PathLike, bytes, Image.Image, np.ndarray, Tensor)


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of the image `name`, best first, with their probabilities and class numbers."""

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    indices: tuple[int, ...]


R = TypeVar("R")
A = TypeVar("A")


def _read_or_raise(answer: A | BadImage) -> A:
    if isinstance(answer, BadImage):
        raise DepthwiseError(f"{answer.path} cannot be read: {answer.reason}")
    return answer


def _check(topk: int | None, batch_size: int, threshold: float | None = None) -> None:
    for name, value in {"topk": topk, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value} and must be at least 1")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"threshold is {threshold} and must be a probability, from 0 to 1")


def ready(module: nn.Module, device: str | torch.device) -> nn.Module:
    """`module` itself as a Predictor runs it: on `device`, laid out channels-last, in evaluation mode."""
    return module.to(device).to(memory_format=torch.channels_last).eval()


def _is_ready(module: nn.Module, device: torch.device) -> bool:
    place = torch.empty(0, device=device).device  # with its number
    tensors = chain(module.parameters(), module.buffers())
    return not any(part.training for part in module.modules()) and all(
        tensor.device == place
        and (tensor.ndim != 4 or tensor.is_contiguous(memory_format=torch.channels_last))
        for tensor in tensors
    )


def _name(number: int, image: Given) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


class Predictor:
    """Predictions of a trained `module` that does a `task` on images of the K `classes`; many threads may call it.

    task: by its name, with a bundle's arguments for it; for "single-label" the module gives logits [N, K].

    A module that is in evaluation mode, on `device` and channels-last is used as it is; of any other a copy is made
    that is. decoding: how image files are read; the white level is the preprocessing's own. uncompiled: makes the
    network as PyTorch runs it, on `device`, for features and maps that `module` does not show.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Preprocess,
        classes: Sequence[str],
        *,
        device: str | torch.device = "cpu",
        decoding: Decoding = DEFAULT,
        task: str = SINGLE_LABEL,
        task_args: Mapping[str, Any] = MappingProxyType({}),
        uncompiled: Callable[[], nn.Module] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.module = module if _is_ready(module, self.device) else ready(copy.deepcopy(module), self.device)
        self.preprocess = preprocess
        self.decoding = replace(decoding, white_level=preprocess.white_level)
        self.classes = tuple(classes)
        self.task = find_task(task, self.classes, task_args)
        self._uncompiled = uncompiled

    def __repr__(self) -> str:
        classes = number_of(len(self.classes), "class", "classes")
        size = "x".join(map(str, self.preprocess.size))
        return f"Predictor({type(self.module).__name__}, {classes}, images of {size})"

    # A path is an Iterable[str] too; the first signature is meant for it.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, images: Given, topk: int | None = ..., batch_size: int = ..., threshold: float | None = ...
    ) -> Prediction: ...
    @overload
    def __call__(
        self,
        images: Iterable[Given],
        topk: int | None = ...,
        batch_size: int = ...,
        threshold: float | None = ...,
    ) -> list[Prediction]: ...

    def __call__(
        self,
        images: Given | Iterable[Given],
        topk: int | None = None,
        batch_size: int = 32,
        threshold: float | None = None,
    ) -> Prediction | list[Prediction]:
        """The Prediction of one image, or those of many in their order.

        An image is a path, the bytes of an image file, a PIL image, an array or a tensor, or a function that gives one
        of these when its turn has come; sizes may differ.
        `topk` above the number of classes gives them all; those below the probability `threshold` are left out, and
        a Prediction may be left without any. By default an image of one class gets the likeliest five, and an image
        of any number of labels those that reach the thresholds that were tuned for them.

        Raises:
            DepthwiseError: an image cannot be read, or the network's answer is not finite.
            UsageError: `topk` or `batch_size` is below 1, or `threshold` is not from 0 to 1.
        """
        if isinstance(images, SINGLE) or not isinstance(images, Iterable):
            return self([images], topk, batch_size, threshold)[0]
        return [*map(_read_or_raise, self.stream(images, topk, batch_size, threshold))]

    def features(self, images: Given | Iterable[Given], batch_size: int = 32) -> np.ndarray:
        """What the network's classifier reads of images: float32 [N, D], or [D] of one image.

        Images as in a call. A compiled network gives them from the same pass as its answers. Raises as a call does.
        """
        if isinstance(images, SINGLE) or not isinstance(images, Iterable):
            return self.features([images])[0]
        rows = [_read_or_raise(row) for row in self.feature_stream(images, batch_size)]
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)

    def feature_stream(
        self, images: Iterable[Given], batch_size: int = 32
    ) -> Generator[np.ndarray | BadImage, None, None]:
        """The features of each image, float32 [D], in their order; an unreadable image gives a BadImage."""
        _check(None, batch_size)
        return self._stream(images, batch_size, self.pixels, partial(looking.features, self))

    def cam(
        self,
        image: Given,
        topk: int | None = None,
        threshold: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> looking.Cam:
        """The Prediction of an image, and for each class that it names, else the likeliest, where the network looked.

        Each `Heat` has a map, float32 [h, w], as large as the network's last map: what each place adds to the class's
        logit, which is the mean of the map and the bias ("cam"), or, where hidden layers stand before the logits,
        Grad-CAM's, which has no unit. `Heat.over_picture()` is float32 [H, W] for the picture, upright, with 0 where
        the preprocessing's crop left the picture out; `Cam.overlay()` is the picture with it. classes: whose heat is
        wanted instead.

        Raises as a call does; DepthwiseError if the network has no last map or a class no logit.
        """
        return _read_or_raise(next(self.cams([image], topk, threshold, 1, classes)))

    def cams(
        self,
        images: Iterable[Given],
        topk: int | None = None,
        threshold: float | None = None,
        batch_size: int = 8,
        classes: Sequence[str] | None = None,
    ) -> Generator[looking.Cam | BadImage, None, None]:
        """What `cam` gives, of each image in their order; an unreadable image gives a BadImage.

        The pictures of a batch are in memory whole.
        """
        _check(topk, batch_size, threshold)
        asked = looking.Asked(topk, threshold, looking.numbers_of(classes, self.classes))
        return self._stream(images, batch_size, self.picture, partial(looking.cams, self, asked))

    @cached_property
    def shown(self) -> nn.Module:
        """The network as PyTorch runs it, for what the engine that runs it does not show; made when first asked for."""
        if self._uncompiled is None:
            return self.module
        warnings.warn(
            "the compiled network does not show all that is asked for: PyTorch computes it from the bundle's weights",
            stacklevel=2,
        )
        return self._uncompiled()

    def stream(
        self,
        images: Iterable[Given],
        topk: int | None = None,
        batch_size: int = 32,
        threshold: float | None = None,
    ) -> Generator[Prediction | BadImage, None, None]:
        """The answers in the images' order, computed a batch at a time; an unreadable image gives a BadImage.

        Raises UsageError as a call does, DepthwiseError if an answer is not finite.
        """
        _check(topk, batch_size, threshold)

        def answers(names: list[str], pixels: list[Tensor]) -> Iterator[Prediction]:
            for name, probabilities in zip(
                names, self.task.answer(self.outputs(torch.stack(pixels))), strict=True
            ):
                yield self.prediction(name, probabilities, topk, threshold)

        return self._stream(images, batch_size, self.pixels, answers)

    def _stream(
        self,
        images: Iterable[Given],
        batch_size: int,
        read: Callable[[Given], R | DepthwiseError],
        work: Callable[[list[str], list[R]], Iterable[A]],
    ) -> Generator[A | BadImage, None, None]:
        """What `work` makes of the names of images and of what was `read` of them, a batch at a time.

        Of a sequence the next batch is read while the network runs on this one.
        """
        ahead = isinstance(images, Sequence) and len(images) > 1
        named = ((_name(number, image), image) for number, image in enumerate(images))
        return streamed(named, batch_size, read, work, ahead=ahead)

    def pixels(self, image: Given) -> Tensor | DepthwiseError:
        """uint8 [C, h, w], or why there are none."""
        found = self.picture(image)
        return found if isinstance(found, DepthwiseError) else found[1]

    def picture(self, image: Given) -> tuple[Tensor, Tensor] | DepthwiseError:
        """The picture, uint8 [C, H, W], and of it uint8 [C, h, w], or why there are none."""
        try:
            given = image() if callable(image) else image
            picture = decode(given, self.preprocess.channels, self.decoding)
            return picture, self.preprocess.pixels(picture)
        except DepthwiseError as error:
            return error

    def outputs(self, pixels: Tensor) -> Tensor:
        """uint8 [N, C, h, w], as `pixels` gives them, to what the network makes of them, on the CPU."""
        with torch.inference_mode():
            return self.module(self.preprocess.normalise(pixels.to(self.device))).cpu()

    def prediction(
        self, name: str, probabilities: Tensor, topk: int | None = None, threshold: float | None = None
    ) -> Prediction:
        """What is named of an image with these `probabilities`, float32 [K]; `topk` and `threshold` as in a call.

        Raises DepthwiseError if they are not finite.
        """
        if not probabilities.isfinite().all():
            raise DepthwiseError(
                f"the network's answer for {name} is not finite, its training diverged or its weights are "
                f"damaged: train again with a lower learning rate"
            )
        indices = self.task.choose(probabilities, topk, threshold)
        return Prediction(
            name,
            tuple(self.classes[i] for i in indices),
            tuple(probabilities[indices].tolist()),
            tuple(indices),
        )
