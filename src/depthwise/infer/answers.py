"""Whether an engine answers as PyTorch does on a few images, and which differences are too large."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError

TOLERANCES = {"fp32": 1e-4, "bf16": 3e-2, "int8": 0.3}
"""The largest difference of a value, relative to the largest value, that a precision explains in any network."""

STEPS = {"fp32": 1e-6, "bf16": 2**-8, "int8": 2**-7}
"""A precision's own error, relative to the largest value of an image."""

MOST_STEPS = 10
"""An error is accepted up to this many times the change in the result that one of STEPS in the images causes."""


class WrongAnswerError(DepthwiseError):
    """An engine runs the network and its answer differs from PyTorch's."""


@dataclass(frozen=True)
class Form:
    """The shape of a result: `one` for a single image, [N, *each] for any other number.

    The two differ if the network squeezes its result.
    """

    one: tuple[int, ...]
    each: tuple[int, ...]

    def of(self, result: Tensor, images: int) -> Tensor:
        """`result`, which is of a number of `images`, in its shape."""
        return result.reshape(self.one if images == 1 else (images, *self.each))


@dataclass(frozen=True)
class Answers:
    """What PyTorch answers: the `results` of `network` on the batches `images`, all of one `form`.

    largest: the largest value in the results and in that of an image of noise, because the result of an image of zeros
    may be next to nothing.
    """

    network: nn.Module
    images: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    form: Form
    largest: float

    def check(self, name: str, run: Callable[[Tensor], Tensor], precision: str) -> None:
        """Raise WrongAnswerError that names the engine unless `run` answers as the network, within `precision`."""
        worst = 0.0
        for x, wanted in zip(self.images, self.results, strict=True):
            try:
                found = run(x.clone())
            except Exception as error:  # whatever the library raises
                reason = str(error).strip().partition("\n")[0]
                raise WrongAnswerError(
                    f"{name} does not run this network on {len(x)} images: {reason}"
                ) from error
            if found.shape != wanted.shape or found.dtype != wanted.dtype:
                raise WrongAnswerError(
                    f"{name} answers {_described(found)} where PyTorch answers {_described(wanted)}: choose another"
                    f" engine"
                )
            finite = wanted.isfinite()
            if not torch.equal(found[~finite].nan_to_num(2.0), wanted[~finite].nan_to_num(2.0)) or not bool(
                found[finite].isfinite().all()
            ):
                raise WrongAnswerError(
                    f"{name} and PyTorch differ in which values are infinite or not a number: choose another engine"
                )
            worst = max(worst, _largest(found[finite] - wanted[finite]))
        most = TOLERANCES[precision] * self.largest
        if worst > most and worst > MOST_STEPS * self._sensitivity(precision):
            raise WrongAnswerError(
                f"{name} answers otherwise than PyTorch, by {worst / max(self.largest, 1e-30):.2g} of the largest "
                f"value where {precision} explains {TOLERANCES[precision]:g}: choose another engine"
            )

    def _sensitivity(self, precision: str) -> float:
        """How far the results move if the images do by one of STEPS; 0 if they move anyway, because they are random."""
        generator = torch.Generator().manual_seed(0)
        moved = 0.0
        for x, wanted in zip(self.images, self.results, strict=True):
            if not torch.equal(eager(self.network, x), wanted):
                return 0.0
            step = STEPS[precision] * max(1.0, _largest(x))
            result = eager(self.network, x + step * torch.randn(x.shape, generator=generator))
            moved = max(moved, _largest(result - wanted))
        return moved


def answers(network: nn.Module, example: Tensor, second: Tensor | None = None) -> Answers:
    """What PyTorch answers with `network`, in evaluation, on one image, on two, and on all of `example` [N, C, H, W].

    The first is the example's first image; the other one is `second` [C, H, W], or noise with the example's mean and
    deviation.

    Raises DepthwiseError if the network does not run, if its result is not one float32 tensor, or if that does not have
    a row for each image.
    """
    if not len(example):
        raise DepthwiseError(
            f"the example is {[*example.shape]} and must hold an image: give [1, C, H, W] or more"
        )
    one = example[:1].detach()
    drawn = _drawn(example.detach())[None]
    images = [one, torch.cat([one, drawn if second is None else second[None]])]
    if len(example) > 2:
        images.append(example.detach())
    results = [eager(network, x) for x in images]
    first, each = results[0].shape, results[1].shape[1:]
    rows = [(len(x), *each) for x in images[1:]]
    lone = [side for side in first if side != 1] == [side for side in each if side != 1]
    if not lone or [tuple(result.shape) for result in results[1:]] != rows:
        raise DepthwiseError(
            f"the network's result is {[*first]} of one image and {[*results[1].shape]} of two, and a compiled one's "
            f"has a row for each image, [N, ...]: compile a module that returns that"
        )
    scale = results if second is None else [*results, eager(network, drawn)]
    largest = max(map(_largest, scale))
    return Answers(network, tuple(images), tuple(results), Form(tuple(first), tuple(each)), largest)


def eager(network: nn.Module, x: Tensor) -> Tensor:
    """The result of `network` on a copy of `x`, which it may change in place; raises as `answers` does."""
    try:
        result: Any = network(x.clone())
    except DepthwiseError:
        raise
    except Exception as error:  # whatever the module's own code raises
        reason = str(error).strip().partition("\n")[0]
        raise DepthwiseError(f"the network does not run on images {list(x.shape)}: {reason}") from error
    dense = isinstance(result, Tensor) and result.layout == torch.strided
    if not dense or result.dtype != torch.float32 or result.device.type != "cpu":
        raise DepthwiseError(
            f"the network's result is {_described(result)} and a compiled one's is one float32 tensor: compile a "
            f"module that returns just that"
        )
    return result.detach()


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        place = "" if value.device.type == "cpu" else f" on {value.device.type}"
        place += "" if value.layout == torch.strided else f" as {value.layout}".replace("torch.", "")
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{place}"
    if isinstance(value, dict):
        return f"a {type(value).__name__} of {', '.join(map(repr, value)) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _drawn(example: Tensor) -> Tensor:
    """An image [C, H, W] of noise: in one of zeros all windows are equal, and errors of position do not show."""
    noise = torch.randn(example.shape[1:], generator=torch.Generator().manual_seed(0))
    deviation, mean = example.std(correction=0), example.mean()
    return noise * deviation + mean if 0 < deviation < torch.inf else noise


def _largest(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
