"""Random networks on every engine: what PyTorch answers, or a sentence, and the module as it was."""

import copy
import random
import warnings

import torch
from tests.infer.random_networks import LAYERS, ODD, STEPS, Random, assert_as_pytorch, images
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer import CompiledModule, Precision, compile
from depthwise.infer.general import usable

NETWORKS = 18

Seen = list[tuple[str, bool, tuple[int, ...], bytes]]


def seen(network: nn.Module) -> Seen:
    """All that a module's owner can see of it: modes; values, layouts, and which tensors want a gradient."""
    modes = [(name, part.training, (), b"") for name, part in network.named_modules()]
    tensors = [
        (name, tensor.requires_grad, tensor.stride(), tensor.detach().numpy().tobytes())
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    ]
    return modes + tensors


def drawn(seed: int) -> tuple[nn.Module, Tensor]:
    """A network, parts of it in training, in each third one a weight that is NaN or infinite, and images for it."""
    draw = random.Random(seed)
    network = Random(seed, [*LAYERS, *ODD])
    for part in network.modules():
        part.training = draw.random() < 0.5
    if value := draw.choice((None, None, None, None, torch.nan, torch.inf)):
        weights = draw.choice(list(network.parameters())).data.view(-1)
        weights[draw.randrange(len(weights))] = value
    next(network.parameters()).requires_grad_(False)
    return network, images(seed)


def gives_a_tensor(network: nn.Module, x: Tensor) -> bool:
    """Whether PyTorch itself runs it: some views do not fit the layers before them."""
    try:
        with torch.no_grad():
            return isinstance(network(x.clone()), Tensor)
    except RuntimeError:
        return False


def compiled_or_refused(
    network: nn.Module, x: Tensor, engine: str, precision: Precision
) -> CompiledModule | None:
    before, example = seen(network), x[:1].clone()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compile(network, example, engine=engine, precision=precision)  # type: ignore[arg-type]
    except DepthwiseError:
        return None
    finally:
        assert seen(network) == before
        assert torch.equal(example.nan_to_num(), x[:1].nan_to_num())


def test_every_engine_answers_as_pytorch_or_is_refused(fuzz_seed: int) -> None:
    assert {"openvino", "onnxruntime", "torch"} == set(usable("fp32"))
    ran = dict.fromkeys(("auto", *usable("fp32")), 0)
    for number, seed in enumerate(range(fuzz_seed, fuzz_seed + NETWORKS)):
        network, x = drawn(seed)
        own = copy.deepcopy(network).eval()
        answers = gives_a_tensor(own, x[:1])
        # The two that take a second to prepare a network take turns.
        for engine in ("torch", ("auto", "openvino", "onnxruntime")[number % 3]):
            precision: Precision = random.Random(seed).choice(("fp32", "bf16"))
            precision = precision if engine in ("auto", *usable(precision)) else "fp32"
            compiled = compiled_or_refused(network, x, engine, precision)
            about = (seed, engine, precision)
            if compiled is not None:
                ran[engine] += 1
                assert_as_pytorch(own, compiled, x, precision, about, STEPS[precision])
            elif precision == "fp32" and engine in ("auto", "torch"):
                assert not answers, about
    assert min(ran["auto"], ran["torch"]) > 0, ran
