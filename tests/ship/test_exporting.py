"""Exported files opened by their own runtimes, without our code, against what `load` answers for an image file."""

import json
import os
import signal
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tests.conftest import CLASSES
from tests.processes import Forked

from depthwise.bundle import BundleConfig, read_bundle, write_bundle
from depthwise.data import Columns, Preprocess, open_dataset
from depthwise.data.image import decode
from depthwise.data.pack import pack
from depthwise.errors import DepthwiseError, UsageError
from depthwise.models import create_model
from depthwise.ship import exporting
from depthwise.ship.exporting import FORMATS, NUM_IMAGES, TOLERANCE, export, export_bundle, find_images
from depthwise.ship.load import load

NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {
        "stem": "small",
        "width": 0.25,
        "blocks": [[1, 16, 1, 1], [6, 24, 2, 2], [6, 64, 1, 2]],
        "head": 64,
    },
    "inception_v2": {"stem": "small", "width": 0.125, "aux": True},
}
PREPROCESS = {
    "mobilenet_v2": Preprocess((24, 32), channels=1, mean=(0.3,), std=(0.2,), interpolation="bicubic"),
    "inception_v2": Preprocess(
        (32, 32), channels=3, crop_fraction=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    ),
}
COLOURS = Preprocess((16, 16), 3)


@pytest.fixture(scope="module")
def bundles(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    bundles = {"xception": tiny_bundle}
    for name, arguments in NETWORKS.items():
        preprocess = PREPROCESS[name]
        torch.manual_seed(0)
        module = create_model(name, num_classes=len(CLASSES), in_channels=preprocess.channels, **arguments)
        # Statistics of a batch: with those that it starts with, a random network's answers are all but 0.
        for norm in module.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = 1.0
        with torch.no_grad():
            module(torch.randn(8, preprocess.channels, *preprocess.size))
        bundles[name] = folder / name
        write_bundle(bundles[name], BundleConfig(name, CLASSES, preprocess, arguments), module.state_dict())
    return bundles


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Colour pictures of several sizes, smooth as photographs are."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    rng = np.random.default_rng(0)
    files = []
    for i in range(10):
        small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        files.append(folder / ("more" if i > 7 else "") / f"{i}.png")
        small.resize((40 + 3 * i, 60 - 2 * i), Image.Resampling.BICUBIC).save(files[-1])
    return files


def open_file(file: Path) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
    """What gives the logits, and the text inside, by nothing but the runtime."""
    if file.suffix == ".onnx":
        session = onnxruntime.InferenceSession(file)
        metadata = session.get_modelmeta().custom_metadata_map["depthwise"]
        return lambda x: session.run(["logits"], {"images": x})[0], json.loads(metadata)
    if file.suffix == ".xml":
        import openvino  # later than our code, which keeps it from reporting to its makers

        core = openvino.Core()
        model = core.read_model(file)
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        metadata = model.get_rt_info("depthwise").astype(str)
        return lambda x: compiled({"images": x})["logits"], json.loads(metadata)
    extra = {"depthwise": ""}
    module = torch.export.load(file, extra_files=extra).module()
    return lambda x: module(torch.from_numpy(x)).detach().numpy(), json.loads(extra["depthwise"])


def content(file: Path) -> bytes:
    """All that a file says, unpacked."""
    if not zipfile.is_zipfile(file):
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return b"".join(map(archive.read, archive.namelist()))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("network", ["xception", *NETWORKS])
def test_its_runtime_answers_as_load_does(
    bundles: dict[str, Path],
    pictures: list[Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    network: str,
    format: str,
) -> None:
    out = tmp_path / "new" / f"network{FORMATS[format].suffixes[0]}"
    if network == "xception":
        out.parent.mkdir()
        for file in FORMATS[format].files(out):
            file.write_text("old")
    found = find_images(str(pictures[0].parent), PREPROCESS.get(network, COLOURS))
    result = export_bundle(bundles[network], out, format, images=found, overwrite=True)
    assert capfd.readouterr() == ("", "")
    assert format != "openvino" or sys.modules["openvino_telemetry"] is None  # nothing is reported either
    assert 0 <= result.error <= TOLERANCE
    assert result.num_images == NUM_IMAGES
    assert result.files[0] == out
    assert sorted(out.parent.iterdir()) == sorted(result.files)
    assert result.num_bytes == sum(file.stat().st_size for file in result.files)

    # Everything that is needed comes out of the file.
    run, config = open_file(out)
    assert config == json.loads(json.dumps(read_bundle(bundles[network]).config.to_json()))
    preprocess = Preprocess.from_json(config["preprocess"])
    x = torch.stack([preprocess(decode(file, preprocess.channels)) for file in pictures])
    probabilities = torch.from_numpy(run(x.contiguous().numpy())).softmax(1)
    for row, expected in zip(probabilities, load(bundles[network])(pictures), strict=True):
        order = row.argsort(descending=True)
        assert tuple(config["classes"][k] for k in order) == expected.classes
        torch.testing.assert_close(row[order], torch.tensor(expected.probabilities), atol=1e-5, rtol=1e-4)
    assert probabilities.std(0).max() > 1e-3  # of pictures that it tells apart

    for file in result.files:
        for secret in (str(Path(exporting.__file__).parents[1]), str(Path(torch.__file__).parent)):
            assert secret.encode() not in content(file)
        assert b"aux.mixed6" not in content(file)
        assert not any(row.numpy().tobytes() in content(file) for row in x[:, 0, 0])  # nor anybody's pictures


def test_of_a_compiled_bundle_the_original_is_exported(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    write_bundle(tmp_path / "fast", replace(bundle.config, compiled={"precision": "bf16"}), bundle.weights)
    result = export_bundle(tmp_path / "fast", tmp_path / "network.pt2", "torch")
    assert result.error < 1e-5
    _, config = open_file(result.files[0])
    assert config == json.loads(json.dumps(read_bundle(tiny_bundle).config.to_json()))


def test_a_file_whose_answers_differ_is_not_left_behind(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "network.pt2"
    out.write_text("old")
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(
        DepthwiseError, match=r"in torch \S+ its logits differ by \S+ of the largest, more than -1"
    ):
        export_bundle(tiny_bundle, out, "torch", overwrite=True)
    assert [*tmp_path.iterdir()] == [out]
    assert out.read_text() == "old"


def test_killed_half_way_nothing_has_the_final_name(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "network.pt2"
    process = Forked(export_bundle, str(tiny_bundle), str(out), "torch")
    try:
        process.wait_for(
            lambda: any(file.stat().st_size for file in tmp_path.glob(".network.pt2.partial/*")), every=0.0005
        )
        assert not process.ended, "it ended before its file was seen"
        with pytest.raises(
            DepthwiseError, match=rf"process {process.pid} is writing .*network.pt2: wait until"
        ):
            export_bundle(tiny_bundle, out, "torch")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    export_bundle(tiny_bundle, out, "torch")
    assert [*tmp_path.iterdir()] == [out]


def killed_after_the_weights(*arguments: str) -> None:
    replace = Path.replace

    def kill(file: Path, name: Path) -> Path:
        if replace(file, name).suffix == ".bin":
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    Path.replace = kill  # type: ignore[method-assign]
    export_bundle(*arguments)


def test_killed_between_its_two_files_it_is_taken_away_by_the_next(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "network.xml"
    killed = Forked(killed_after_the_weights, str(tiny_bundle), str(out), "openvino").wait()
    assert killed.returncode == -signal.SIGKILL
    assert (out.with_suffix(".bin").exists(), out.exists()) == (True, False)
    export_bundle(tiny_bundle, out, "openvino")
    assert sorted(tmp_path.iterdir()) == [out.with_suffix(".bin"), out]
    out.unlink()
    with pytest.raises(DepthwiseError, match="exists and is not overwritten"):
        export_bundle(tiny_bundle, out, "openvino")


def test_damaged_weights_are_not_exported(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    weights = {**bundle.weights, "classifier.bias": torch.full((len(CLASSES),), torch.nan)}
    write_bundle(tmp_path / "bundle", bundle.config, weights)
    with pytest.raises(DepthwiseError, match=r"classifier\.bias is not finite: copy the bundle again"):
        export_bundle(tmp_path / "bundle", tmp_path / "network.pt2", "torch")
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


def test_what_cannot_be_written(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown format 'onx': use one of onnx"):
        export_bundle(tiny_bundle, tmp_path / "network.onnx", "onx")
    with pytest.raises(UsageError, match=r"network.pb does not end in .onnx, .* name it \S+network.onnx"):
        export_bundle(tiny_bundle, tmp_path / "network.pb", "onnx")
    (tmp_path / "network.bin").write_text("")
    with pytest.raises(DepthwiseError, match=r"network.bin exists and is not overwritten: .* force=True"):
        export_bundle(tiny_bundle, tmp_path / "network.xml", "openvino")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(DepthwiseError, match=r"folder.onnx is a folder: choose another name"):
        export_bundle(tiny_bundle, tmp_path / "folder.onnx", "onnx", overwrite=True)
    with pytest.raises(DepthwiseError, match=r"network.pt2 cannot be written \(Not a directory\): choose"):
        export_bundle(tiny_bundle, tmp_path / "network.bin" / "network.pt2", "torch")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(DepthwiseError, match=r"needs onnxruntime, .*: pip install 'depthwise\[export\]'"):
            export_bundle(tiny_bundle, tmp_path / "network.onnx", "onnx")
    monkeypatch.setattr(exporting, "ONNX_BYTES", 1000)
    with pytest.raises(
        DepthwiseError, match=r"GB of weights and a file of ONNX holds .*: export it as openvino"
    ):
        export_bundle(tiny_bundle, tmp_path / "network.onnx", "onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.onnx", "network.bin"]


def test_images_to_compare_on(tiny_bundle: Path, pictures: list[Path], tmp_path: Path) -> None:
    folder = str(pictures[0].parent)
    found = [image().tolist() for image in find_images(folder, COLOURS)]
    in_order = [decode(path, COLOURS.channels).tolist() for path in sorted(pictures)]
    assert sorted(found) == sorted(in_order)
    assert found == [image().tolist() for image in find_images(folder, COLOURS)] != in_order
    assert [image().shape for image in find_images("digits", Preprocess((8, 8), 1))[:2]] == [(1, 8, 8)] * 2
    with pytest.raises(UsageError, match="is not there"):
        find_images(str(tmp_path / "nowhere"), COLOURS)

    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(DepthwiseError, match="of the images to compare on 7 can be read, and 8 are needed"):
        export_bundle(
            tiny_bundle,
            tmp_path / "network.pt2",
            "torch",
            images=[tmp_path / "broken.png", *pictures[:7]],
        )


def test_images_need_no_labels(tiny_bundle: Path, pictures: list[Path], tmp_path: Path) -> None:
    folder = pictures[0].parent
    names = [str(path.relative_to(folder)) for path in pictures]
    manifest = folder / "images.csv"
    manifest.write_text(
        "\n".join(["file,split", *(f"{name},{'train' if k % 2 else 'test'}" for k, name in enumerate(names))])
    )
    in_test = [decode(path, 3).tolist() for path in pictures[::2]]
    found = [image().tolist() for image in find_images(manifest, COLOURS)]
    assert len(found) == len(pictures)
    assert sorted(found[: len(in_test)]) == sorted(in_test)
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("\n".join(["path,tag", *(f"{name},{'ab'[k % 2]}" for k, name in enumerate(names))]))
    pack(open_dataset(labelled, columns=Columns(image_root=str(folder))), tmp_path / "shards")
    manifest.unlink()
    result = export(tiny_bundle, out=tmp_path / "network.pt2", format="torch", data=tmp_path / "shards")
    assert result.num_images == NUM_IMAGES
