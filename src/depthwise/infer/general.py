"""General engines, which run any network, each with its own usual settings for speed; and the choice of the fastest."""

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from statistics import median
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from depthwise import telemetry
from depthwise.errors import DepthwiseError
from depthwise.infer.plan import check_images
from depthwise.infer.sessions import onnxruntime_session, openvino_network
from depthwise.infer.trace import exported
from depthwise.timing import REST, in_turns, seconds

Run = Callable[[Tensor], Tensor]
"""float32 [N, C, H, W] -> logits [N, K]."""

Prepare = Callable[[nn.Module, Tensor, int], Run]
"""(network in evaluation mode, example, threads) -> Run."""

ROUNDS = 5
MOST_MOVED = 0.01
"""The largest difference, relative to the largest value, that another order of summation in another layout explains."""


def eager(dtype: torch.dtype) -> Prepare:
    """PyTorch as it is, with the network and its maps in channels-last, and under autocast below float32.

    A network whose result is different in channels-last, because it views maps, runs in the contiguous layout.
    """

    def prepare(network: nn.Module, x: Tensor, threads: int) -> Run:
        layout = torch.contiguous_format

        def run(x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
                # A copy: the network may change its images in place.
                return network(x.clone(memory_format=layout)).float()

        if x.ndim != 4:
            return run
        plain = run(x)
        layout = torch.channels_last
        network = network.to(memory_format=layout)
        try:
            finite = plain.isfinite()
            moved = (run(x) - plain)[finite].abs()
            same = bool((moved <= MOST_MOVED * plain[finite].abs().max()).all())
        except RuntimeError:
            same = False
        if not same:
            layout = torch.contiguous_format
            network = network.to(memory_format=layout)
        return run

    return prepare


def onnxruntime(*, any_batch: bool = False) -> Prepare:
    """ONNX Runtime; for the example's batch size unless `any_batch`."""

    def prepare(network: nn.Module, x: Tensor, threads: int) -> Run:
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            write_onnx(program_of(network, x, any_batch=any_batch), file.name)
            return onnx_run(file.name, threads)

    return prepare


def write_onnx(program: torch.export.ExportedProgram, file: str) -> None:
    """Write `program` as ONNX; its input is called "images"."""
    torch.onnx.export(
        program, (), file, dynamo=True, external_data=False, verbose=False, input_names=["images"]
    )


def onnx_run(file: str, threads: int) -> Run:
    """Runs the file of `write_onnx` on the CPU."""
    session = onnxruntime_session(file, threads)
    return lambda x: torch.from_numpy(session.run(None, {"images": x.contiguous().numpy()})[0])


def openvino(precision: str, *, any_batch: bool = False) -> Prepare:
    """OpenVINO's f32 or bf16; for the example's batch size unless `any_batch`."""

    def prepare(network: nn.Module, x: Tensor, threads: int) -> Run:
        telemetry.switch_off()
        import openvino

        model = openvino.convert_model(program_of(network, x, any_batch=any_batch))
        return openvino_requests(model, threads, INFERENCE_PRECISION_HINT=precision)

    return prepare


def openvino_requests(model: Any, threads: int, **settings: Any) -> Run:
    """Runs an openvino.Model on the CPU, each batch as one request; safe from many threads at once."""
    settings |= {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino_network(model, **settings)
    idle: SimpleQueue[Any] = SimpleQueue()

    def run(x: Tensor) -> Tensor:
        try:
            request = idle.get_nowait()
        except Empty:
            request = compiled.create_infer_request()
        result = torch.from_numpy(request.infer({0: x.contiguous().numpy()})[0].copy())
        idle.put(request)
        return result

    return run


def program_of(network: nn.Module, x: Tensor, *, any_batch: bool = False) -> torch.export.ExportedProgram:
    """PyTorch's graph of `network` (see trace.exported), for the example's batch size unless `any_batch`."""
    if not any_batch:
        return exported(network, x)
    batch = torch.export.Dim.DYNAMIC
    # With two images: export would take a batch of one to be of that size always.
    return exported(network, torch.cat([x[:1]] * 2), ({0: batch},))


GENERAL: dict[str, dict[str, Prepare]] = {
    "openvino": {
        "fp32": openvino("f32", any_batch=True),
        "bf16": openvino("bf16", any_batch=True),
    },
    "onnxruntime": {"fp32": onnxruntime(any_batch=True)},
    "torch": {"fp32": eager(torch.float32), "bf16": eager(torch.bfloat16)},
}
"""By the names of the packages, and the precisions of each."""


class General:
    """Runs a copy of `network` on the general engine `name`, as a plan does: any number of images of one shape.

    PyTorch answers images with NaN or infinities, because poolings and activations of other engines may lose them.

    Raises DepthwiseError if the engine is not installed, has no such precision or does not take the network.
    """

    def __init__(self, name: str, network: nn.Module, example: Tensor, precision: str) -> None:
        if precision not in GENERAL[name]:
            raise DepthwiseError(f"{name} is not used in {precision}: choose another engine or precision")
        if find_spec(name) is None:
            raise DepthwiseError(f"{name} is not installed: pip install 'depthwise[export]'")
        self.name, self.shape = name, tuple(example.shape[1:])
        try:
            self._network = network = copy.deepcopy(network).requires_grad_(False)
            self._run = GENERAL[name][precision](network, example, torch.get_num_threads())
            self._run(example)
        except Exception as error:  # whatever the library raises
            reason = str(error).strip().partition("\n")[0]
            raise DepthwiseError(f"{name} does not run this network: {reason}") from error

    def __call__(self, x: Tensor) -> Tensor:
        """float32 [N, C, H, W] to the network's result."""
        check_images(x, self.shape)
        if not len(x):
            return x.new_empty(0)
        x = x.detach()
        if self.name == "torch" or _finite(x):
            return self._run(x)
        rows = [(self._run if _finite(image) else self._network)(image.clone()) for image in x.split(1)]
        return torch.cat([row.reshape(1, -1) for row in rows])

    def __reduce__(self) -> NoReturn:
        raise DepthwiseError(
            f"a network that {self.name} runs cannot be copied, pickled or saved: keep the network that it was "
            f"compiled from, and compile that where it is needed"
        )


def _finite(x: Tensor) -> bool:
    return all(math.isfinite(value) for value in x.aminmax())


def usable(precision: str) -> list[str]:
    """The engines that are installed and have `precision`."""
    return [name for name in GENERAL if precision in GENERAL[name] and find_spec(name) is not None]


T = TypeVar("T", bound=Callable[[Tensor], Any])


def fastest(candidates: Sequence[T], example: Tensor) -> T:
    """The one that is the fastest with `example`, by the median of runs in turns."""
    if len(candidates) == 1:
        return candidates[0]

    def measure(candidate: T) -> float:
        candidate(example)  # wakes the threads and brings the weights back
        return seconds(partial(candidate, example))

    taken = in_turns({k: partial(measure, c) for k, c in enumerate(candidates)}, ROUNDS, rest=REST)
    return candidates[min(taken, key=lambda number: median(taken[number]))]
