"""A bundle's network comes back with its own weights, or not at all."""

import dataclasses
import json
import random
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import depthwise
from depthwise.bundle import CONFIG, ROUNDINGS, WEIGHTS, read_bundle, write_bundle
from depthwise.errors import DepthwiseError
from depthwise.infer import compile
from depthwise.infer.quantize import to_tensors
from depthwise.models import create_model
from depthwise.ship.load import load, load_compiled, load_module, transfer


def changed(bundle: Path, tmp_path: Path, **values: Any) -> Path:
    """A copy of the bundle with other values in its config."""
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    config = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps({**config, **values}))
    return copy


def refusal(path: Path) -> str:
    with pytest.raises(DepthwiseError) as raised:
        load(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_the_network_has_the_bundles_weights_and_draws_no_random_number(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    before = torch.get_rng_state()
    module = load_module(bundle)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(part.training for part in module.modules())
    state = module.state_dict()
    assert state.keys() == bundle.weights.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, bundle.weights[name])
        assert tensor.data_ptr() != bundle.weights[name].data_ptr()


def test_lower_precision_weights_are_computed_with_in_float32(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    weights = {name: t.bfloat16() if t.is_floating_point() else t for name, t in bundle.weights.items()}
    module = load_module(depthwise.bundle.Bundle(bundle.config, weights, bundle.path))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_a_catalogue_name_is_no_trained_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DepthwiseError, match=r"untrained with create_model\('xception'\)"):
        load("xception")


def test_an_unknown_network_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    assert "unknown model 'xceptoin': use one of xception" in refusal(
        changed(tiny_bundle, tmp_path, model="xceptoin")
    )


def test_weights_that_do_not_fit_are_named_with_both_shapes(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = json.loads((tiny_bundle / CONFIG).read_text())["model_args"]
    sentence = refusal(changed(tiny_bundle, tmp_path, model_args={**arguments, "width": 0.5}))
    assert "stem.0.conv.weight is [8, 3, 3, 3] in the file and [16, 3, 3, 3] in the network" in sentence
    assert sentence.count(" in the file and ") == 3
    assert "more" in sentence


def test_missing_and_superfluous_weights_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = json.loads((tiny_bundle / CONFIG).read_text())["model_args"]
    sentence = refusal(changed(tiny_bundle, tmp_path, model_args={**arguments, "middle": []}))
    assert "absent in the network" in sentence


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 1e300},
        {"width": 100_000},
        {"width": "wide"},
        {"middle": 5},
        {"conv": "SeparableConv2d"},
        {"wdith": 1},
        {"num_classes": 4},
        {"in_channels": 1},
        {"dropout": -1},
    ],
    ids=str,
)
def test_arguments_that_build_no_such_network_are_refused_in_a_sentence(
    tiny_bundle: Path, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    good = json.loads((tiny_bundle / CONFIG).read_text())["model_args"]
    assert "\n" not in refusal(changed(tiny_bundle, tmp_path, model_args={**good, **arguments}))


def network(tiny_bundle: Path, num_classes: int, **changes: Any) -> torch.nn.Module:
    arguments = {**read_bundle(tiny_bundle).config.model_args, **changes}
    return create_model("xception", num_classes=num_classes, **arguments)


def test_a_network_for_other_classes_takes_all_but_the_classifier(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    module = network(tiny_bundle, 5)
    classifier = module.classifier.weight.detach().clone()
    assert not transfer(bundle, module, ("a", "b", "c", "d", "e"))
    for name, tensor in module.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(tensor, bundle.weights[name])
    assert torch.equal(module.classifier.weight, classifier)


def test_as_many_other_classes_are_other_classes(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    module = network(tiny_bundle, 3)
    assert not transfer(bundle, module, ("x", "y", "z"))
    assert not torch.equal(module.classifier.weight, bundle.weights["classifier.weight"])
    assert transfer(bundle, module, bundle.config.classes)
    assert torch.equal(module.classifier.weight, bundle.weights["classifier.weight"])


def test_a_network_that_does_not_fit_stays_as_it_is(tiny_bundle: Path) -> None:
    module = network(tiny_bundle, 5, exit=[128, 512])
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(DepthwiseError, match="do not fit the network"):
        transfer(read_bundle(tiny_bundle), module, ("a", "b", "c", "d", "e"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_transferred_weights_are_trainable_and_the_modules_own(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    module = network(tiny_bundle, 3)
    parameters = [id(parameter) for parameter in module.parameters()]
    transfer(bundle, module, bundle.config.classes)
    assert [id(parameter) for parameter in module.parameters()] == parameters
    assert all(parameter.requires_grad for parameter in module.parameters())


def broken(good: Path, tmp_path: Path, file: str, name: str, tensor: torch.Tensor) -> Path:
    """A copy of a bundle with another tensor `name`, without digests, as somebody else's program writes one."""
    path = tmp_path / "broken"
    shutil.copytree(good, path, dirs_exist_ok=True)
    config = json.loads((path / CONFIG).read_text())
    config.pop("digests", None)
    (path / CONFIG).write_text(json.dumps(config))
    tensors = safetensors.torch.load_file(path / file)
    safetensors.torch.save_file({**tensors, name: tensor}, path / file)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.index_fill(0, torch.tensor([1]), torch.nan), "is not finite"),
        (lambda t: t.index_fill(0, torch.tensor([1]), torch.inf), "is not finite"),
        (lambda t: t.double() + 1e300, "is not finite"),
        (lambda t: -1 - t, "goes down to -.* and must be at least 0"),
        (lambda t: t.int(), r"is \[\d+\] of whole numbers in the file"),
    ],
)
def test_weights_that_no_network_computes_with_are_named(
    tiny_bundle: Path, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    weights = read_bundle(tiny_bundle).weights
    name = next(name for name in weights if name.endswith("running_var"))
    path = broken(tiny_bundle, tmp_path, WEIGHTS, name, change(weights[name]))
    with pytest.raises(DepthwiseError, match=re.escape(name)) as raised:
        load(path)
    assert re.search(message, str(raised.value))
    assert str(path) in str(raised.value)


@pytest.fixture(scope="module")
def int8_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_bundle` in int8."""
    bundle = read_bundle(tiny_bundle)
    images = torch.randn(4, 3, *bundle.config.preprocess.size, generator=torch.Generator().manual_seed(0))
    fast = compile(load_module(bundle), images[:1], precision="int8", engine="native", calibration=images)
    config = dataclasses.replace(bundle.config, compiled={"precision": "int8", "engine": "native"})
    path = tmp_path_factory.mktemp("int8") / "bundle"
    write_bundle(path, config, bundle.weights, roundings=to_tensors(fast.roundings))
    return path


def mutated(tensor: torch.Tensor, draw: random.Random) -> torch.Tensor:
    """What no calibration gives: another size, another type, a number that is none or out of its range."""
    flat = tensor.clone().flatten()
    match draw.randrange(5):
        case 0:
            return torch.cat([flat, flat])
        case 1:
            return tensor.to(draw.choice([torch.float64, torch.bfloat16, torch.int32]))
        case 2:
            return tensor[None]
        case _:
            flat[draw.randrange(len(flat))] = draw.choice([torch.inf, -torch.inf, torch.nan])
            return flat.view_as(tensor)


def test_of_100_mutated_roundings_each_is_named(int8_bundle: Path, tmp_path: Path) -> None:
    roundings = safetensors.torch.load_file(int8_bundle / ROUNDINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(int8_bundle)
        bundle = read_bundle(int8_bundle)
        for seed in range(100):
            draw = random.Random(seed)
            name = draw.choice(sorted(roundings))
            changed = {**roundings, name: mutated(roundings[name], draw)}
            with pytest.raises(DepthwiseError, match=re.escape(f"{ROUNDINGS}: {name} ")) as raised:
                load_compiled(dataclasses.replace(bundle, roundings=changed))
            assert "compile the bundle anew" in str(raised.value), seed
        path = broken(int8_bundle, tmp_path, ROUNDINGS, name, changed[name])
        with pytest.raises(DepthwiseError, match=re.escape(f"{path / ROUNDINGS}: {name} ")):
            load(path)
