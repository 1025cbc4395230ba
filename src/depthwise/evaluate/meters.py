"""One pass over a split, whatever is asked of its images: the network answers, and the task's meters count."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from depthwise import native
from depthwise.errors import DepthwiseError, UsageError
from depthwise.modes import in_mode

PRECISIONS = ("float32", "bfloat16")


class Batch(Protocol):
    """What one step of an evaluation reads; any tuple with these names will do."""

    @property
    def images(self) -> Tensor:
        """float32 [N, C, h, w]."""

    @property
    def targets(self) -> Tensor:
        """What the images show, as the task's meters read it: [N, ...]."""

    @property
    def indices(self) -> Tensor:
        """int64 [N], each image's place in its split."""


class Batches(Protocol):
    """The images of a split, in batches; `epoch(0)` goes through them once."""

    def __len__(self) -> int: ...

    def epoch(self, e: int) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Headline:
    """The number of an evaluation that counts most, from 0 to 1, higher being better.

    key: its name in `Evaluation.numbers` and in files; name: what a person calls it; sentence: what it says of images,
    as "{value} of {images} are right".
    """

    key: str
    name: str
    sentence: str

    def of(self, evaluation: "Evaluation") -> float:
        """The number itself."""
        value = evaluation.numbers[self.key]
        assert value is not None
        return value

    def said(self, evaluation: "Evaluation", images: str) -> str:
        """It in a sentence about `images`, "360 test images" for example."""
        return self.sentence.format(value=f"{self.of(evaluation):.2%}", images=images)


class Evaluation(Protocol):
    """What a network is worth on a split; each task has its own kind."""

    @property
    def num_images(self) -> int:
        """How many images were evaluated."""

    @property
    def headline(self) -> Headline:
        """Which of `numbers` counts most."""

    @property
    def numbers(self) -> Mapping[str, float | None]:
        """What a line of metrics says: the `loss`, and fractions from 0 to 1; None has no meaning for this split."""

    def to_json(self) -> dict[str, Any]:
        """These and other numbers without the single images, as plain values; one that is not finite is None."""


E_co = TypeVar("E_co", covariant=True)


class Meters(Protocol[E_co]):
    """Counts what a network says about images, a batch at a time: a few numbers an image, never its whole answer."""

    @property
    def num_images(self) -> int:
        """How many images have been counted."""

    def update(self, output: Any, targets: Tensor, indices: Tensor) -> None:
        """Count the network's `output` for images at the places `indices` of their split, which show `targets`.

        Raises DepthwiseError if the three do not fit each other.
        """

    def merge(self, other: Self) -> None:
        """Count what `other` has counted, on other images of the split."""

    def compute(self) -> E_co:
        """The evaluation of all images, the same whatever the batches and parts were; there is at least one."""


def run_meters(
    module: nn.Module,
    batches: Batches,
    meters: Meters[E_co],
    *,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> E_co:
    """Run `module` over `batches` once, without gradients and in evaluation mode, and count with `meters`.

    The modes of the module and of each of its parts are as before when this returns or raises. `precision` is
    "float32" or "bfloat16" (autocast). `progress(done, total)` hears of each batch.

    Raises:
        UsageError: `precision` is neither of the two.
        DepthwiseError: there is no image, or what the network answers is not what the meters count.
    """
    with answering(module, device, precision) as answer:
        for done, batch in enumerate(batches.epoch(0), start=1):
            if not len(batch.targets):  # every file of it turned out to be unreadable
                continue
            meters.update(answer(batch.images), batch.targets, batch.indices)
            if progress:
                progress(done, len(batches))
    return evaluation_of(meters)


def evaluation_of(meters: Meters[E_co]) -> E_co:
    """What `meters` have counted. Raises DepthwiseError if that is nothing."""
    if not meters.num_images:
        raise DepthwiseError(
            "there is no image to evaluate: the split is empty or none of its files can be read"
        )
    return meters.compute()


@contextmanager
def answering(
    module: nn.Module, device: str | torch.device, precision: str
) -> Iterator[Callable[[Tensor], Any]]:
    """What `module` answers to images, without gradients and in evaluation mode, as a function; see `run_meters`."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known: use {' or '.join(PRECISIONS)}")
    device = torch.device(device)

    def answer(images: Tensor) -> Any:
        images = images.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return module(images)

    with in_mode(module, training=False), torch.inference_mode(), native.evaluating():
        yield answer


def finite(value: float) -> float | None:
    """`value`, or None, which JSON has where a number is not finite."""
    return value if math.isfinite(value) else None
