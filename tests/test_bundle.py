"""A bundle comes back as it was written, is never half there, and says in a sentence what is wrong with it."""

import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from depthwise.bundle import CONFIG, RAW_WEIGHTS, ROUNDINGS, WEIGHTS, BundleConfig, read_bundle, write_bundle
from depthwise.data import Preprocess
from depthwise.errors import DepthwiseError

CONFIGURATION = BundleConfig(
    model="xception",
    classes=("owl", "猫"),
    preprocess=Preprocess((24, 32), channels=1, crop_fraction=1.0),
    model_args={"width": 0.5, "middle": [8, 8]},
    training={"recipe": "small", "top1": 0.5},
)


def weights(value: float) -> dict[str, torch.Tensor]:
    # As a trained network has them: channels-last, sharing memory, on the graph, of several types.
    shared = torch.full((2, 3, 3, 3), value).to(memory_format=torch.channels_last).requires_grad_()
    return {"conv.weight": shared, "view": shared[:1], "half": shared.bfloat16(), "count": torch.tensor(7)}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", CONFIGURATION, weights(1.0), raw=weights(2.0))
    for place in (tmp_path / "bundle", tmp_path):
        for raw, value in ((False, 1.0), (True, 2.0)):
            bundle = read_bundle(place, raw=raw)
            assert bundle.config == CONFIGURATION
            assert bundle.weights.keys() == weights(value).keys()
            for name, tensor in weights(value).items():
                assert bundle.weights[name].dtype == tensor.dtype
                assert torch.equal(bundle.weights[name], tensor)


@pytest.mark.parametrize("roundings", [{}, {"layer.scale": torch.ones(3)}])
def test_int8_keeps_its_roundings_be_there_any_or_not(
    tmp_path: Path, roundings: dict[str, torch.Tensor]
) -> None:
    config = replace(CONFIGURATION, compiled={"precision": "int8"})
    write_bundle(tmp_path / "bundle", config, weights(1.0), roundings=roundings)
    found = read_bundle(tmp_path / "bundle").roundings
    assert found is not None
    assert found.keys() == roundings.keys()
    assert all(torch.equal(found[name], roundings[name]) for name in roundings)
    write_bundle(tmp_path / "plain", CONFIGURATION, weights(1.0))
    assert read_bundle(tmp_path / "plain").roundings is None


def test_a_place_that_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "bundle"
    with pytest.raises(
        DepthwiseError, match=r"^(?!.*partial).*file/bundle cannot be written \(.*\): choose another"
    ):
        write_bundle(path, CONFIGURATION, weights(1.0))


def test_others_may_read_the_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_bundle(tmp_path / "bundle", CONFIGURATION, weights(1.0), raw=weights(2.0))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"bundle": 0o755, CONFIG: 0o644, WEIGHTS: 0o644, RAW_WEIGHTS: 0o644}


def change(name: str, value: Any) -> Callable[[Path], None]:
    def apply(bundle: Path) -> None:
        values = json.loads((bundle / CONFIG).read_text())
        (bundle / CONFIG).write_text(json.dumps({**values, name: value}))

    return apply


def preprocess(**values: Any) -> Callable[[Path], None]:
    return change("preprocess", {**CONFIGURATION.preprocess.to_json(), **values})


def one_tensor(dtype: str, size: int) -> bytes:
    """A safetensors file with 64 values."""
    header = json.dumps({"w": {"dtype": dtype, "shape": [64], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def drop(name: str) -> Callable[[Path], None]:
    def apply(bundle: Path) -> None:
        values = json.loads((bundle / CONFIG).read_text())
        del values[name]
        (bundle / CONFIG).write_text(json.dumps(values))

    return apply


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).write_bytes(content) and None


def foreign(content: bytes) -> Callable[[Path], None]:
    """Weights that say nothing of their digest."""

    def apply(bundle: Path) -> None:
        drop("digests")(bundle)
        (bundle / WEIGHTS).write_bytes(content)

    return apply


def truncate(size: int) -> Callable[[Path], None]:
    return lambda bundle: os.truncate(bundle / WEIGHTS, size)


DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]

BROKEN = {
    "no folder": (
        shutil.rmtree,
        "bundle does not exist: give a bundle folder or the directory of a training run",
    ),
    "no config": (lambda bundle: (bundle / CONFIG).unlink(), "bundle is not a bundle, it has no config.json"),
    "no weights": (lambda bundle: (bundle / WEIGHTS).unlink(), "model.safetensors is missing"),
    "not JSON": (write(CONFIG, b"{"), "config.json is not JSON"),
    "not text": (write(CONFIG, b"\xff\xfe\x00"), "config.json is not JSON"),
    "nested too deep": (write(CONFIG, b"[" * 100_000), "config.json is not JSON"),
    "no object": (write(CONFIG, b"[]"), "config.json: this is no JSON object"),
    "newer": (change("format_version", 2), "config.json: format_version 2 is newer than this depthwise"),
    "no version": (drop("format_version"), "format_version is None and must be a whole number"),
    "odd version": (change("format_version", True), "format_version is True and must be a whole number"),
    "no model": (drop("model"), "the field 'model' is missing"),
    "odd model": (change("model", 7), "the field 'model' must be a JSON string"),
    "odd arguments": (change("model_args", [1]), "the field 'model_args' must be a JSON object"),
    "no class": (change("classes", []), "the field 'classes' must be a list of at least one name"),
    "odd classes": (change("classes", [1, 2]), "the field 'classes' must be a list of at least one name"),
    "other task": (change("task", "detection"), "the task 'detection' is unknown"),
    "odd preprocessing": (change("preprocess", {"sise": 3}), "the field 'preprocess' is malformed"),
    "odd digests": (change("digests", []), "the field 'digests' must be a JSON object"),
    "odd digest": (change("digests", {WEIGHTS: 7}), "the field 'digests' must hold strings"),
    "a key twice": (
        write(CONFIG, b'{"model": "a", "model": "b"}'),
        "config.json is not JSON (it says 'model' twice)",
    ),
    "huge version": (
        change("format_version", 10**400),
        "format_version (a number of about 401 digits) is newer",
    ),
    "long model": (change("model", "x" * 5000), "must have 1 to 200 characters"),
    "deep arguments": (
        change("model_args", {"a": [[[[[]]]]] * 3, "b": DEEP}),
        "model_args is nested more than 32 deep",
    ),
    "huge size": (
        preprocess(size=[2**40, 24]),
        "size=[1099511627776, 24]: 1099511627776 must be at least 1 and at most",
    ),
    "true size": (preprocess(size=[True, 24]), "size=[True, 24]: True must be a whole number"),
    "infinite size": (preprocess(size=[float("inf"), 24]), "inf must be a whole number"),
    "tiny crop": (preprocess(crop_fraction=1e-9), "crop_fraction=1e-09 must be at least 0.01 and at most 1"),
    "giant cover": (preprocess(size=[4096, 4096], crop_fraction=0.1), "resize images to 40,960 pixels"),
    "infinite mean": (preprocess(mean=[float("-inf")], std=[1.0]), "mean=[-inf]: -inf is no finite number"),
    "zero deviation": (preprocess(mean=[0.5], std=[0.0]), "std=[0.0]: 0.0 must be at least 1e-06"),
    "odd precision": (
        change("compiled", {"precision": "fp8"}),
        "unknown compiled.precision 'fp8': use one of fp32",
    ),
    "odd engine": (
        change("compiled", {"engine": ["native"]}),
        "compiled.engine=['native'] must be 'native' or",
    ),
    "infinite error": (change("compiled", {"error": float("inf")}), "compiled.error=inf is no finite number"),
    "negative time": (
        change("compiled", {"milliseconds": -1}),
        "compiled.milliseconds=-1 must be at least 0",
    ),
    "true time": (change("compiled", {"milliseconds": True}), "compiled.milliseconds=True must be a number"),
    "odd share": (
        change("compiled", {"accuracy": [0.5, 1.5]}),
        "compiled.accuracy=[0.5, 1.5]: 1.5 must be at least 0",
    ),
    **{
        f"weights in {dtype}": (foreign(one_tensor(dtype, size)), sentence)
        for dtype, size, sentence in (
            ("F4", 32, "float4_e2m1fn_x2, in which no network here computes"),
            ("F8_E8M0", 64, "float8_e8m0fnu, in which no network here computes"),
            ("F6_E2M3", 48, "model.safetensors is damaged (Dtype not understood"),
            ("C64", 512, "complex64, in which no network here computes"),
        )
    },
    "empty weights": (write(WEIGHTS, b""), "model.safetensors is damaged"),
    "cut-off header": (truncate(20), "model.safetensors is damaged"),
    "cut-off weights": (truncate(500), "model.safetensors is damaged"),
    "huge header": (write(WEIGHTS, b"\xff" * 64), "model.safetensors is damaged"),
}


@pytest.mark.parametrize(("damage", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_broken_bundle_is_refused_in_a_sentence(
    tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    write_bundle(tmp_path / "bundle", CONFIGURATION, weights(1.0))
    damage(tmp_path / "bundle")
    with pytest.raises(DepthwiseError) as raised:
        read_bundle(tmp_path / "bundle")
    assert sentence in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_bundle_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    write_bundle(path, CONFIGURATION, weights(1.0), raw=weights(1.5))
    with pytest.raises(DepthwiseError, match="exists and is not overwritten"):
        write_bundle(path, CONFIGURATION, weights(2.0))
    assert read_bundle(path).weights["conv.weight"].mean() == 1.0
    write_bundle(path, replace(CONFIGURATION, model="other"), weights(2.0), overwrite=True)
    assert read_bundle(path).weights["conv.weight"].mean() == 2.0
    assert read_bundle(path).config.model == "other"
    assert sorted(os.listdir(tmp_path)) == ["bundle"]
    assert sorted(os.listdir(path)) == [CONFIG, WEIGHTS]


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "chapter1.txt").write_text("years of work")
    with pytest.raises(DepthwiseError, match="is not a bundle and is not overwritten"):
        write_bundle(path, CONFIGURATION, weights(1.0), overwrite=True)
    assert (path / "chapter1.txt").read_text() == "years of work"


class Killed(BaseException):
    """The process ends here; nothing may clean up behind it."""


@pytest.mark.parametrize("survived", range(3))
def test_a_kill_at_any_point_leaves_a_whole_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    path = tmp_path / "bundle"
    write_bundle(path, CONFIGURATION, weights(1.0))
    renames = 0
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        nonlocal renames
        if renames == survived:
            raise Killed
        renames += 1
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        if survived < 2:
            with pytest.raises(Killed):
                write_bundle(path, CONFIGURATION, weights(2.0), overwrite=True)
        else:
            write_bundle(path, CONFIGURATION, weights(2.0), overwrite=True)
    expected = 2.0 if survived == 2 else 1.0
    assert read_bundle(path).weights["conv.weight"].mean() == expected
    write_bundle(path, CONFIGURATION, weights(3.0), overwrite=True)
    assert read_bundle(path).weights["conv.weight"].mean() == 3.0
    assert not (tmp_path / ".bundle.previous").exists()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bundle"
    write_bundle(path, CONFIGURATION, weights(1.0))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(path, CONFIGURATION, weights(2.0), overwrite=True)
    assert os.listdir(tmp_path) == ["bundle"]
    assert read_bundle(path).weights["conv.weight"].mean() == 1.0


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    write_bundle(tmp_path / "v1", CONFIGURATION, weights(1.0))
    (tmp_path / "current").symlink_to("v1")
    write_bundle(tmp_path / "current", CONFIGURATION, weights(2.0), overwrite=True)
    assert (tmp_path / "current").is_symlink()
    assert read_bundle(tmp_path / "v1").weights["conv.weight"].mean() == 2.0


def test_a_bundle_is_found_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "bundle", CONFIGURATION, weights(1.0))
    monkeypatch.chdir(tmp_path / "bundle")
    assert read_bundle(".").config == CONFIGURATION
    monkeypatch.chdir("/")
    with pytest.raises(DepthwiseError, match=r"^\. is not a bundle"):
        read_bundle(".")


def flip(bundle: Path, name: str, bit: int) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    (bundle / name).write_bytes(content)


@pytest.mark.parametrize("name", [WEIGHTS, RAW_WEIGHTS, ROUNDINGS])
def test_a_changed_bit_is_named(tmp_path: Path, name: str) -> None:
    bundle, chance = tmp_path / "bundle", random.Random(0)
    config = replace(CONFIGURATION, compiled={"precision": "int8"})
    write_bundle(bundle, config, weights(1.0), weights(2.0), roundings={"layer.scale": torch.ones(3)})
    for _ in range(50):
        bit = chance.randrange(8 * (bundle / name).stat().st_size)
        flip(bundle, name, bit)
        with pytest.raises(DepthwiseError) as raised:
            read_bundle(bundle, raw=name == RAW_WEIGHTS)
        assert str(raised.value) == (
            f"{bundle / name} is damaged (its SHA-256 is not the one in config.json): copy it again or write it "
            f"anew, or, if it was changed on purpose, remove 'digests' from {bundle / CONFIG}"
        )
        flip(bundle, name, bit)
    read_bundle(bundle, raw=name == RAW_WEIGHTS)


def test_a_bundle_without_digests_is_read_and_gets_some_when_written(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle(bundle, CONFIGURATION, weights(1.0))
    assert json.loads((bundle / CONFIG).read_text())["digests"].keys() == {WEIGHTS}
    drop("digests")(bundle)
    flip(bundle, WEIGHTS, 8 * (bundle / WEIGHTS).stat().st_size - 1)
    old = read_bundle(bundle)
    write_bundle(bundle, old.config, old.weights, overwrite=True)
    assert "digests" in json.loads((bundle / CONFIG).read_text())
    read_bundle(bundle)


def test_what_was_replaced_when_the_process_was_killed_still_counts_as_there(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle(bundle, CONFIGURATION, weights(1.0))
    bundle.rename(tmp_path / ".bundle.previous")
    with pytest.raises(DepthwiseError, match="exists and is not overwritten"):
        write_bundle(bundle, CONFIGURATION, weights(2.0))
    assert os.listdir(tmp_path) == ["bundle"]
    assert read_bundle(bundle).weights["conv.weight"].mean() == 1.0
