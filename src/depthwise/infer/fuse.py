"""From operations to steps: what the kernels do in one go, a separable convolution with all that stands around it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from depthwise.infer.graph import (
    LANES,
    Activation,
    AdaptivePool,
    Concatenation,
    Convolution,
    Function,
    Gate,
    Graph,
    Image,
    Mean,
    Operation,
    Pool,
    Sides,
    Sum,
    sources,
)

PASSING = Convolution | Sum | Gate
"""What does an activation behind it in passing."""

NOTHING = Function()


@dataclass(frozen=True)
class Step:
    """activation(product(between(depthwise(relu(source)))) + residual), where most parts are optional.

    `kind` is input, convolution, pool, average, mean, sum, which is activation(source * gate + residual), or copy: into
    a concatenation, from its channel `first` on, and to its end if it is the `last` of its parts. Sources, gate,
    residual and result are numbers of operations in the graph: the maps that exist in memory.
    """

    kind: str
    source: int
    result: int
    depthwise: Convolution | None = None
    relu_first: bool = False
    between: Function = NOTHING
    product: Convolution | None = None
    pool: Pool | AdaptivePool | None = None
    residual: int | None = None
    largest: bool = False
    """Of the two, rather than the sum with the residual."""
    gate: int | None = None
    activation: Function = NOTHING
    first: int | None = None
    last: bool = False

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int], Sides]:
        """Kernel, stride and padding of the convolution that the step reads its source through."""
        part = self.depthwise or self.product
        if part is None:
            return (1, 1), (1, 1), (0, 0, 0, 0)
        height, width = part.weight.shape[2:]
        return (height, width), part.stride, part.padding


@dataclass(frozen=True)
class Schedule:
    """Steps in an order in which they can run.

    `homes` has the maps that lie in another: (the concatenation that they are a part of, the first of their channels).
    """

    steps: tuple[Step, ...]
    homes: dict[int, tuple[int, int]]


def fuse(graph: Graph) -> Schedule:
    """The steps that `graph` comes to."""
    fusion = _Fusion(graph)
    steps = fusion.steps()
    return Schedule(tuple(steps), {part: fusion.home(part) for part in fusion.homes})


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self.operations, self.shapes = graph.operations, graph.shapes
        self.readers: list[list[int]] = [[] for _ in self.operations]
        for index, operation in enumerate(self.operations):
            for source in sources(operation):
                self.readers[source].append(index)
        self.taken: set[int] = set()
        """Operations that have become part of a step which another operation stands for."""
        self.homes: dict[int, tuple[int, int]] = {}

    def steps(self) -> list[Step]:
        steps: list[Step] = []
        for index in range(len(self.operations) - 1, -1, -1):
            operation = self.operations[index]
            if isinstance(operation, Concatenation):
                steps += self._copies(index, operation)
            elif index not in self.taken and (step := self._step(index)):
                steps.append(step)
        return steps[::-1]

    def home(self, index: int) -> tuple[int, int]:
        """The map in memory that `index` lies in, and the first of its channels there."""
        if index not in self.homes:
            return index, 0
        whole, first = self.homes[index]
        owner, offset = self.home(whole)
        return owner, offset + first

    def _copies(self, index: int, operation: Concatenation) -> list[Step]:
        """What a concatenation leaves to be done.

        A part that nobody else reads is written where it belongs, if it begins and ends there with a vector: the last
        one does, filled up.
        """
        copies, first, end = [], 0, self.shapes[index][0]
        for part in operation.parts:
            width = self.shapes[part][0]
            last = first + width == end
            whole = first % LANES == 0 and (width % LANES == 0 or last)
            if whole and self._alone(part) and not isinstance(self.operations[part], Image):
                self.homes[part] = (index, first)
            else:
                copies.append(Step("copy", part, index, first=first, last=last))
            first += width
        return copies

    def _step(self, result: int) -> Step | None:
        """The step that ends in operation `result`, taking in what stands before it and is read by nobody else."""
        head, activation, residual, largest = result, NOTHING, None, False
        operation = self.operations[head]
        if isinstance(operation, Activation):
            if self._read_in_place(head):
                return None
            activation, head = operation.function, operation.source
            if not self._alone(head) or not isinstance(self.operations[head], PASSING):
                return Step("sum", head, result, activation=activation)
            self.taken.add(head)
            operation = self.operations[head]
        if isinstance(operation, Sum):
            largest = operation.largest
            joined = self._joined(operation)
            if joined is None:
                return Step(
                    "sum",
                    operation.source,
                    result,
                    residual=operation.other,
                    largest=largest,
                    activation=activation,
                )
            head, residual = joined
            self.taken.add(head)
            operation = self.operations[head]
        match operation:
            case Convolution():
                return replace(
                    self._convolution(operation, result),
                    residual=residual,
                    largest=largest,
                    activation=activation,
                )
            case Gate(source, gate):
                return Step(
                    "sum",
                    source,
                    result,
                    residual=residual,
                    largest=largest,
                    gate=gate,
                    activation=activation,
                )
            case Pool() | AdaptivePool():
                return Step(
                    "average" if operation.average else "pool", operation.source, result, pool=operation
                )
            case Mean():
                return Step("mean", operation.source, result)
            case _:
                return Step("input", 0, result)

    def _joined(self, operation: Sum) -> tuple[int, int] | None:
        """The operand that the step of the sum can make itself, and the other; None if it can make neither.

        A gate before a convolution, which can write its result by itself; of two alike the later one, for then the
        other is there already.
        """
        operands = sorted(
            [(operation.source, operation.other), (operation.other, operation.source)], reverse=True
        )
        for kind in (Gate, Convolution):
            for source, other in operands:
                if source != other and self._alone(source) and isinstance(self.operations[source], kind):
                    return source, other
        return None

    def _convolution(self, operation: Convolution, result: int) -> Step:
        product: Convolution | None = operation
        depthwise, between = None, NOTHING
        source = operation.source
        if is_depthwise(operation):
            product, depthwise = None, operation
        elif is_pointwise(operation):
            # relu or nothing between, then the depthwise part
            inner, function = source, NOTHING
            before = self.operations[inner]
            if isinstance(before, Activation) and self._alone(inner):
                inner, function = before.source, before.function
            before = self.operations[inner]
            if isinstance(before, Convolution) and is_depthwise(before) and self._alone(inner):
                self.taken.update({source, inner})
                depthwise, between, source = before, function, before.source
        relu_first = False
        if depthwise is not None:
            before = self.operations[source]
            if isinstance(before, Activation) and before.kind == "relu" and self._read_in_place(source):
                relu_first, source = True, before.source
        return Step(
            "convolution",
            source,
            result,
            depthwise=depthwise,
            relu_first=relu_first,
            between=between,
            product=product,
        )

    def _alone(self, index: int) -> bool:
        return len(self.readers[index]) == 1

    def _read_in_place(self, index: int) -> bool:
        """Whether a ReLU is better done by those who read its operand, all of them depthwise, than written out.

        So it is where somebody else reads the operand too; else whoever makes the operand does it in passing.
        """
        operation = self.operations[index]
        return (
            isinstance(operation, Activation)
            and operation.kind == "relu"
            and not (self._alone(operation.source) and isinstance(self.operations[operation.source], PASSING))
            and bool(readers := self.readers[index])
            and all(is_depthwise(self.operations[reader]) for reader in readers)
        )


def is_depthwise(operation: Operation) -> bool:
    """One filter a channel."""
    return (
        isinstance(operation, Convolution)
        and operation.groups == len(operation.weight) == _inputs(operation) > 1
    )


def is_affine(operation: Operation) -> bool:
    """A factor and a summand a channel."""
    return isinstance(operation, Convolution) and operation.groups == operation.weight.numel()


def is_pointwise(operation: Operation) -> bool:
    """1x1, every channel into every other, pixel by pixel."""
    return (
        isinstance(operation, Convolution)
        and operation.weight.shape[2:] == (1, 1)
        and operation.groups == 1
        and operation.stride == (1, 1)
        and not any(operation.padding)
    )


def block(operation: Convolution, outputs: range, inputs: range) -> Tensor:
    """The weight [h, w, inputs, outputs] between these channels, with zeros where groups or the channels end.

    `inputs` must hold all that the `outputs` read.
    """
    weight = operation.weight.new_zeros(*operation.weight.shape[2:], len(inputs), len(outputs))
    for rows, read, columns in parts(operation, outputs, inputs):
        weight[:, :, read, columns] = operation.weight[rows].permute(2, 3, 1, 0)
    return weight


def parts(operation: Convolution, outputs: range, inputs: range) -> Iterator[tuple[slice, slice, slice]]:
    """Of each group that `outputs` has a share in: these channels, and where they and what they read lie in a block."""
    share, width = len(operation.weight) // operation.groups, operation.weight.shape[1]
    for group in range(outputs.start // share, min(operation.groups, -(-outputs.stop // share))):
        first, end = max(outputs.start, group * share), min(outputs.stop, (group + 1) * share)
        source = group * width - inputs.start
        yield (
            slice(first, end),
            slice(source, source + width),
            slice(first - outputs.start, end - outputs.start),
        )


def _inputs(operation: Convolution) -> int:
    return operation.groups * operation.weight.shape[1]
