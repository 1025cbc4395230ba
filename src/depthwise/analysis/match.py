"""Networks of equal budget: the width at which one meets a number of parameters, multiply-adds or milliseconds."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import chain
from math import ceil, floor, log, sqrt
from statistics import median
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from depthwise.analysis.cost import multiply_adds
from depthwise.bounds import Bounds, checked
from depthwise.errors import DepthwiseError, UsageError
from depthwise.layers import WidthFactor
from depthwise.models import create_model
from depthwise.models.arguments import Side
from depthwise.models.catalogue import MAX_PARAMETERS, TooLargeError
from depthwise.modes import in_mode
from depthwise.timing import in_turns, seconds

TICKS, FINE_TICKS = 1000, 10_000  # widths to 1 that are told apart, and of channels in finer steps than 8
NARROWEST, WIDEST = 1 / 64, 64.0
ROUNDS, FEWEST_ROUNDS = 11, 2
PATIENCE = 2.0  # seconds of a measurement, in which slow networks have fewer rounds
REFINEMENTS, CANDIDATES = 2, 5  # of the measured search: each narrows the interval to a fifth
BEYOND = 1.1  # times the width at which a time that grows by the square of it would meet the budget


Parameters = Annotated[float, Bounds(0, MAX_PARAMETERS, above=True)]
MultiplyAdds = Annotated[float, Bounds(0, 1e15, above=True)]
Milliseconds = Annotated[float, Bounds(0, 1e6, above=True)]


class NoWidthError(DepthwiseError):
    """A budget that the narrowest network exceeds."""


@dataclass(frozen=True)
class Match:
    """The widest network that was found within the budget, and what it costs; `milliseconds` if that was measured.

    width: as the network takes it, in a pair where channels are multiples of another number than 8.
    """

    width: WidthFactor
    parameters: int
    macs: int
    milliseconds: float | None = None


@checked
def match(
    name: str,
    *,
    parameters: Parameters | None = None,
    macs: MultiplyAdds | None = None,
    milliseconds: Milliseconds | None = None,
    size: Side | tuple[Side, Side] | None = None,
    step: Annotated[int, Bounds(1, 64)] = 8,
    batch: Annotated[int, Bounds(1, 4096)] = 1,
    refinements: Annotated[int, Bounds(0, 10)] = REFINEMENTS,
    **arguments: Any,
) -> Match:
    """Find the `width` of the widest network `name`, built with `arguments`, that keeps within one budget.

    The budget is one of: all parameters; multiply-adds for one image of `size` (the network's own unless given);
    or milliseconds of a forward pass of `batch` such images in evaluation mode, float32, channels-last, on this
    machine's CPU with the threads that PyTorch is set to. Widths move in thousandths, or tenths of them for another
    `step` than 8, but channels in steps of `step`, so what is reached lies below the budget: it is in the answer.

    Milliseconds are medians of runs in which the candidates take turns. Widths around the answer that differ by
    less than the machine's noise are not told apart. With 0 `refinements` the answer lies between two widths that were
    measured, and its milliseconds are the budget.

    Raises UsageError unless exactly one budget is given, within its bounds, NoWidthError for one that the narrowest
    network exceeds, DepthwiseError for one beyond the widest.
    """
    budgets = {"parameters": parameters, "macs": macs, "milliseconds": milliseconds}
    given = {key: value for key, value in budgets.items() if value is not None}
    if len(given) != 1:
        raise UsageError(f"{len(given)} budgets are given: give one of {', '.join(budgets)}")
    if "width" in arguments:
        raise UsageError(f"width={arguments['width']} is what is looked for: leave it out")
    ((kind, budget),) = given.items()

    def argument(width: float) -> WidthFactor:
        return width if step == 8 else (width, step)

    def build(width: float) -> nn.Module:
        return create_model(name, width=argument(width), **arguments)

    def shape(module: Any) -> tuple[int, int, int]:
        sides = module.input_size if size is None else size
        height, width = (sides, sides) if isinstance(sides, int) else sides
        return module.in_channels, height, width

    def count(width: float) -> _Found:
        with torch.device("meta"):
            return _Found(width, build(width), shape)

    if milliseconds is None:
        ticks = TICKS if step == 8 else FINE_TICKS
        found = _widest(count, kind, budget, f"{name} of {kind}={budget:,.0f}", ticks)
        return Match(argument(found.width), found.parameters, found.macs)

    def measure(widths: Sequence[float]) -> list[float]:
        modules = [_without_values(partial(build, width)) for width in widths]
        rounds = ROUNDS if len(widths) > 1 else FEWEST_ROUNDS  # one alone says where to look
        return latencies(modules, torch.zeros(batch, *shape(modules[0])), rounds)

    width, reached = _fastest(measure, budget, f"{name} in {milliseconds:g} ms", refinements)
    counted = count(width)
    return Match(argument(width), counted.parameters, counted.macs, reached)


def latencies(modules: Sequence[nn.Module], image: Tensor, rounds: int = ROUNDS) -> list[float]:
    """The median milliseconds in which each module, in evaluation mode, answers for `image` [N, C, H, W], in turns.

    Networks that take long have fewer than `rounds`: what disturbs a run is little beside it.
    """
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), ExitStack() as stack:
        for module in modules:
            stack.enter_context(in_mode(module, training=False))
        runs = {k: partial(seconds, partial(module, image)) for k, module in enumerate(modules)}
        first = sum(run() for run in runs.values())  # which brings in weights and kernels
        taken = in_turns(runs, min(rounds, max(FEWEST_ROUNDS, int(PATIENCE / first))))
    return [1000 * median(each) for each in taken.values()]


def _without_values(build: Callable[[], nn.Module]) -> nn.Module:
    """What is built, all zeros: random numbers cost more than the answers that are timed, and change nothing there."""
    with torch.device("meta"):
        module = build()
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in chain(module.parameters(), module.buffers()):
            tensor.zero_()
    return module.to(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class _Found:
    """The network at a width, without memory, and what it costs, which is counted when it is asked for."""

    width: float
    module: nn.Module
    shape: Callable[[Any], tuple[int, int, int]]

    @cached_property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())

    @cached_property
    def macs(self) -> int:
        return multiply_adds(self.module, self.shape(self.module))


def _widest(count: Callable[[float], _Found], kind: str, budget: float, wanted: str, ticks: int) -> _Found:
    """Bisection over steps of 1 / ticks, from the largest power of two within the budget to the next."""

    count = cache(count)

    def counted(width: float) -> _Found | None:
        try:
            return count(width)
        except TooLargeError:
            return None

    def fits(width: float) -> bool:
        found = counted(width)
        return found is not None and bool(getattr(found, kind) <= budget)

    low = 1.0
    while not fits(low):
        low /= 2
        if low < NARROWEST:
            least = getattr(count(2 * low), kind)
            raise NoWidthError(
                f"there is no {wanted}: at width {2 * low:.3g} it has {least:,} and hardly less below, "
                f"so give a larger budget or take a smaller network"
            )
    while fits(2 * low):
        low *= 2
        if low >= WIDEST:
            raise DepthwiseError(
                f"{wanted} is wider than {WIDEST:g} times the network: give a smaller budget"
            )
    narrow, wide = floor(low * ticks), ceil(2 * low * ticks)
    while wide - narrow > 1:
        middle = (narrow + wide) // 2
        narrow, wide = (middle, wide) if fits(middle / ticks) else (narrow, middle)
    found = count(narrow / ticks)
    # Of the widths that make this network, one that a person would write: 1 rather than 1.003.
    rounded = (counted(width) for digits in range(3) if (width := round(found.width, digits)) > 0)
    return next(
        (one for one in rounded if one and (one.parameters, one.macs) == (found.parameters, found.macs)),
        found,
    )


def _fastest(
    measure: Callable[[Sequence[float]], list[float]],
    budget: float,
    wanted: str,
    refinements: int = REFINEMENTS,
) -> tuple[float, float]:
    """The largest width that kept to the budget and the milliseconds it took, by ever closer sets of candidates;
    without refinements, the width between two measured ones that should meet the budget, and the budget."""
    # From the narrow end: nothing is run that takes much longer than the budget.
    low, high, below = NARROWEST, 2 * NARROWEST, 0.0
    while (above := measure([high])[0]) <= budget:
        low, below = high, above
        high *= min(2.0, BEYOND * sqrt(budget / above))
        if high > WIDEST:
            raise DepthwiseError(
                f"{wanted} is wider than {WIDEST:g} times the network: give a smaller budget"
            )
    done, found = 0, (0.0, 0.0)
    if below:  # a line on logarithmic scales
        found = round(low * (high / low) ** (log(budget / below) / log(above / below)), 3), budget
    while done < refinements or not found[0]:
        widths = [round(low + (high - low) * i / CANDIDATES, 3) for i in range(CANDIDATES)]
        times = measure(widths)
        within = next((i for i, taken in enumerate(times) if taken > budget), len(times))
        if within:
            found = widths[within - 1], times[within - 1]
            low, high = found[0], [*widths, high][within]
        else:  # the machine has slowed down, or the narrowest is too slow
            found, low, high = (0.0, 0.0), low / 2, low
            if low < NARROWEST:
                raise NoWidthError(
                    f"there is no {wanted} on this machine: at width {widths[0]:g} it takes {times[0]:.3g} ms, "
                    f"so give a larger budget or a smaller size, or take a smaller network"
                )
        done += 1
    return found
