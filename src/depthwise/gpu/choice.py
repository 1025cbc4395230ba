"""Whether Triton's kernel or the framework's does a depthwise convolution: by a comparison and a stopwatch, once.

What was chosen is a value, which a run keeps: its bits then follow from that and not from another measurement.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from depthwise.bounds import Bounds, Length, check, fit
from depthwise.gpu.calls import Shape, Size, watching
from depthwise.gpu.depthwise import available, depthwise_conv2d, version
from depthwise.timing import in_turns, ratio, seconds

ROUNDS = 15
REPEATS = 5
"""Of a convolution in a round."""

TOLERANCE = {"float32": 5e-3, "bfloat16": 3e-2}
"""How far the two may differ, in parts of the largest value: the framework multiplies float32 in TF32, and rounds
weights to bfloat16. What a wrong kernel gives differs by whole values."""

Step = Callable[[], Sequence[Tensor]]
"""A convolution's result and gradients."""

Milliseconds = Annotated[float, Bounds(0, 1e9)]


@dataclass(frozen=True)
class Choice:
    """Who does convolutions of `shape`, and why; times are of a result and its gradients, in milliseconds, medians."""

    shape: Shape
    triton: bool
    reason: Annotated[str, Length(1, 1000)]
    framework_ms: Milliseconds | None = None
    triton_ms: Milliseconds | None = None

    def __post_init__(self) -> None:
        check(self, "a choice")


def decided(
    shape: Shape, framework: Step, triton: Step, time: Callable[[Step], float], rounds: int = ROUNDS
) -> Choice:
    """Triton's, if it gives what the framework gives, twice the same bits, and is faster in nine of ten rounds.

    time: the seconds that a step takes.
    """
    try:
        found, again = triton(), triton()
    except Exception as error:  # of a compiler, a driver, an allocator: the framework does it then
        text = " ".join(str(error).split())
        return Choice(shape, False, f"Triton's kernel did not run ({type(error).__name__}: {text:.300})")
    if not all(map(torch.equal, found, again)):
        return Choice(shape, False, "Triton's kernel gave other bits the second time")
    difference = max(map(_error, found, framework()))
    if not difference <= TOLERANCE[shape.dtype]:
        return Choice(
            shape, False, f"Triton's kernel is wrong: it differs by {difference:.2g} of the largest value"
        )
    times = in_turns({"framework": lambda: time(framework), "triton": lambda: time(triton)}, rounds)
    faster = ratio(times["framework"], times["triton"])
    return Choice(
        shape,
        faster.tenth > 1,
        f"Triton's kernel is {faster.tenth:.3g} to {faster.ninetieth:.3g} times as fast in eight of ten rounds",
        *(1000 * median(times[name]) for name in ("framework", "triton")),
    )


def _error(found: Tensor, expected: Tensor) -> float:
    """In parts of the largest value; NaN where either has it."""
    largest = expected.abs().max().double().clamp(min=1e-30)
    return float(((found - expected).abs().max() / largest).detach())


def measured(shape: Shape, batch: int, device: torch.device, rounds: int = ROUNDS) -> Choice:
    """The choice for `batch` images on `device`; no generator of the process moves."""
    generator = torch.Generator(device).manual_seed(0)
    dtype = getattr(torch, shape.dtype)

    def drawn(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        values = torch.randn(sizes, generator=generator, device=device, dtype=dtype)
        return values.contiguous(memory_format=torch.channels_last)

    def by(convolve: Callable[..., Tensor]) -> Step:
        def step() -> Sequence[Tensor]:
            y = convolve(x, weight)
            return [y.detach(), *torch.autograd.grad(y, (x, weight), dy)]

        return step

    def time(step: Step) -> float:
        def several() -> None:
            for _ in range(REPEATS):
                step()
            _wait(device)

        _wait(device)
        return seconds(several) / REPEATS

    def framework(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight.to(dtype), None, shape.stride, shape.padding, groups=shape.channels)

    try:
        x = drawn(batch, shape.channels, shape.height, shape.width, dtype=dtype).requires_grad_()
        weight = drawn(shape.channels, 1, shape.kernel, shape.kernel).requires_grad_()
        with torch.no_grad():
            dy = drawn(*framework(x, weight).shape, dtype=dtype)
        return decided(shape, by(framework), by(lambda x, weight: run(x, weight, shape)), time, rounds)
    except torch.OutOfMemoryError:
        return Choice(shape, False, "there is no memory to measure it in")


def run(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """The convolution of `shape` by Triton's kernel, as autocast would have it."""
    return depthwise_conv2d(x.to(getattr(torch, shape.dtype)), weight, shape.stride, (shape.padding,) * 4)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Choices:
    """What was chosen for a network's training on `batch` images; without choices all is the framework's."""

    batch: Size = 1
    choices: tuple[Choice, ...] = ()

    def __post_init__(self) -> None:
        check(self, "convolutions")

    @cached_property
    def _triton(self) -> frozenset[Shape]:
        return frozenset(each.shape for each in self.choices if each.triton)

    def __bool__(self) -> bool:
        """Whether anything is Triton's."""
        return bool(self._triton)

    def in_use(self) -> AbstractContextManager[Any]:
        """Inside it convolutions are done as chosen. Shapes that nobody asked about are the framework's."""
        return watching(self._instead) if self else nullcontext()

    def _instead(self, x: Tensor, weight: Tensor, shape: Shape) -> Tensor | None:
        return run(x, weight, shape) if shape in self._triton else None

    @property
    def versions(self) -> dict[str, str]:
        """What the bits depend on because of them."""
        return {"triton": version()} if self else {}

    def to_json(self) -> dict[str, Any] | None:
        """Plain values; None without choices."""
        if not self.choices:
            return None
        return {"batch": self.batch, "choices": [asdict(each) for each in self.choices]}

    @staticmethod
    def from_json(values: Any) -> "Choices":
        """Read what `to_json` gave. Raises UsageError for all else."""
        if values is None:
            return FRAMEWORK
        given = fit(values, dict[str, Any], "convolutions")
        listed = fit(given.get("choices"), Annotated[tuple[Any, ...], Length(0, 10_000)], "choices")
        return Choices(given.get("batch"), tuple(map(_choice, listed)))


FRAMEWORK = Choices()


def _choice(values: Any) -> Choice:
    given = dict(fit(values, dict[str, Any], "a choice"))
    shape: Mapping[str, Any] = fit(given.pop("shape", None), dict[str, Any], "shape")
    return Choice(
        Shape(*(shape.get(name) for name in Shape.__dataclass_fields__)),  # type: ignore[arg-type]
        given.get("triton"),  # type: ignore[arg-type]
        given.get("reason"),  # type: ignore[arg-type]
        given.get("framework_ms"),
        given.get("triton_ms"),
    )


def chosen(shapes: Sequence[Shape], batch: int, device: torch.device, tell: Callable[[str], None]) -> Choices:
    """What is measured on `device` of each of `shapes`, one after another; `tell` hears of it."""
    if not available():
        tell("Triton is not installed, so all convolutions are the framework's")
        return FRAMEWORK
    found = []
    for number, shape in enumerate(shapes, 1):
        tell(f"measuring convolution {number} of {len(shapes)}, Triton's kernel against the framework's")
        found.append(measured(shape, batch, device))
    choices = Choices(batch, tuple(found))
    tell(f"Triton's kernel does {sum(each.triton for each in found)} of {len(found)} kinds of convolutions")
    return choices
