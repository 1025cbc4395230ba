"""From operations to steps: each step is what the kernels compute in one pass, such as a separable convolution."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from depthwise.infer.graph import (
    LANES,
    Activation,
    AdaptivePooling,
    Concatenation,
    Convolution,
    Function,
    Gate,
    Graph,
    Image,
    Mean,
    Operation,
    Pooling,
    Sides,
    Sum,
    sources,
)

PASSING = Convolution | Sum | Gate
"""The operations whose step can apply the activation after them."""

NOTHING = Function()


@dataclass(frozen=True)
class Step:
    """activation(product(between(depthwise(relu(source)))) + residual), where most parts are optional.

    kind: one of structs.KINDS. A "sum" is activation(source * gate + residual). A "copy" writes into a concatenation,
    from its channel `first` on, and up to its end if it is the `last` of its parts. Sources, gate, residual and result
    are maps in memory, by the numbers of the operations that make them.
    """

    kind: str
    source: int
    result: int
    depthwise: Convolution | None = None
    relu_first: bool = False
    between: Function = NOTHING
    product: Convolution | None = None
    pool: Pooling | AdaptivePooling | None = None
    residual: int | None = None
    largest: bool = False
    """The larger of the two, in place of the sum with the residual."""
    gate: int | None = None
    activation: Function = NOTHING
    first: int | None = None
    last: bool = False

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int], Sides]:
        """Kernel, stride and padding of the convolution that reads the source."""
        part = self.depthwise or self.product
        if part is None:
            return (1, 1), (1, 1), (0, 0, 0, 0)
        height, width = part.weight.shape[2:]
        return (height, width), part.stride, part.padding


@dataclass(frozen=True)
class Schedule:
    """Steps in an order in which they can run.

    homes: of each map that lies within a concatenation, the concatenation and the map's first channel in it.
    """

    steps: tuple[Step, ...]
    homes: dict[int, tuple[int, int]]


def fuse(graph: Graph) -> Schedule:
    """The steps that compute `graph`."""
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
        """Operations that are part of another operation's step."""
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
        """The map in memory that map `index` is a part of, perhaps itself, and its first channel there."""
        if index not in self.homes:
            return index, 0
        whole, first = self.homes[index]
        owner, offset = self.home(whole)
        return owner, offset + first

    def _copies(self, index: int, operation: Concatenation) -> list[Step]:
        """The copies that a concatenation needs.

        A part needs none if it has no other reader and begins and ends at a multiple of a vector: its own step writes
        it into the concatenation. The last part may end anywhere, because its channels are padded.
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
        """The step that makes map `result`, with the operations before it that have no other reader."""
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
            case Pooling() | AdaptivePooling():
                return Step(
                    "average" if operation.average else "pool", operation.source, result, pool=operation
                )
            case Mean():
                return Step("mean", operation.source, result)
            case _:
                return Step("input", 0, result)

    def _joined(self, operation: Sum) -> tuple[int, int] | None:
        """The operand that the sum's step can compute itself, and the other one; None if it can compute neither.

        A gate is preferred to a convolution, which can have a step of its own. Of two alike, the later one is chosen,
        because the other one is computed before it.
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
            # Before it may stand an activation, and before that the depthwise part.
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
        """Whether the readers of a ReLU, all of them depthwise, should each apply it as they read its operand.

        That saves a map where the operand has other readers too. Where it has none, the step that makes the operand
        applies the ReLU.
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
    """Whether `operation` is a convolution with one filter per channel."""
    return (
        isinstance(operation, Convolution)
        and operation.groups == len(operation.weight) == _inputs(operation) > 1
    )


def is_affine(operation: Operation) -> bool:
    """Whether `operation` multiplies each channel by a number and adds another."""
    return isinstance(operation, Convolution) and operation.groups == operation.weight.numel()


def is_pointwise(operation: Operation) -> bool:
    """Whether `operation` is a plain 1x1 convolution: without groups, stride or padding."""
    return (
        isinstance(operation, Convolution)
        and operation.weight.shape[2:] == (1, 1)
        and operation.groups == 1
        and operation.stride == (1, 1)
        and not any(operation.padding)
    )


def block(operation: Convolution, outputs: range, inputs: range) -> Tensor:
    """The weight [h, w, inputs, outputs] between these channels; zero between groups, and for padded channels.

    `inputs` must include all channels that the `outputs` read.
    """
    weight = operation.weight.new_zeros(*operation.weight.shape[2:], len(inputs), len(outputs))
    for rows, read, columns in parts(operation, outputs, inputs):
        weight[:, :, read, columns] = operation.weight[rows].permute(2, 3, 1, 0)
    return weight


def parts(operation: Convolution, outputs: range, inputs: range) -> Iterator[tuple[slice, slice, slice]]:
    """For each group with channels in `outputs`: these channels, and where their inputs and outputs lie in a block."""
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
