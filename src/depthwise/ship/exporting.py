"""A bundle into a file of another runtime, reloaded there and compared with the original before it is left behind.

In every format the network is the one of evaluation mode, in float32. Its input, "images", is [N, C, H, W] for any N:
what `Preprocess.normalise` gives. Its output, "logits", is [N, K]: the softmax is left to whoever wants it.
torch.export knows no names and takes the input by position.

The bundle's config.json, with the preprocessing and the names of the classes, travels inside under the key "depthwise":
in ONNX's metadata_props, in OpenVINO's rt_info, among torch.export's extra_files.
"""

import io
import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from depthwise import telemetry
from depthwise.bounds import checked
from depthwise.bundle import read_bundle
from depthwise.data import Dataset, Preprocess
from depthwise.data.image import Decoding, UnreadableImageError, decode
from depthwise.data.numbering import with_white_level
from depthwise.data.sources.open import open_images
from depthwise.data.spread import evenly
from depthwise.errors import DepthwiseError, UsageError, unknown_name
from depthwise.infer.predictor import Given
from depthwise.infer.sessions import onnxruntime_session, openvino_network
from depthwise.ship.load import load_module
from depthwise.ship.showing import Showing
from depthwise.writing import check_free, named, partial_of, reserved, written_folder

KEY, INPUT, OUTPUT = "depthwise", "images", "logits"

NUM_IMAGES = 8
"""What is compared: so many images, one by one and all at once."""

TOLERANCE = 1e-4
"""The largest difference of a logit from the original's, relative to the largest logit, that is no mistake."""

ONNX_OPSET = 18
ONNX_BYTES = 2**31
"""What a file of ONNX holds at most: protobuf's limit."""

Run = Callable[[Tensor], Tensor]
"""float32 [N, C, H, W] -> logits [N, K], by the runtime."""


@dataclass(frozen=True)
class Format:
    """How a network is written and, by the `runtime` it is for, read.

    suffixes: of the files that belong together, that of the first last, whose name is the whole's. write: a program
    and the text for KEY into the file. read: a file into what runs it, and the text.
    """

    suffixes: tuple[str, ...]
    packages: tuple[str, ...]
    runtime: str
    write: Callable[[ExportedProgram, str, Path], None]
    read: Callable[[Path], tuple[Run, str]]

    def files(self, out: Path) -> tuple[Path, ...]:
        return tuple(out.with_suffix(suffix) for suffix in self.suffixes)


@dataclass(frozen=True)
class Exported:
    """What was left behind: the files, the first of them the one to open.

    error: the largest difference of a logit, relative to the largest logit, on `num_images` images, in the runtime of
    that version.
    """

    files: tuple[Path, ...]
    num_bytes: int
    format: str
    runtime: str
    version: str
    error: float
    num_images: int


def export_bundle(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    format: str,
    *,
    images: Sequence[Given] | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write the network of the bundle `path`, compiled or not, to the file `out` in one of FORMATS.

    images: to compare on, the first NUM_IMAGES of them that can be read; None for made-up ones. `tell` hears what a
    person should know of it.

    Raises DepthwiseError, and writes nothing, if the file exists and may not be overwritten or cannot be written, if a
    package is missing, if too few images can be read, or if the runtime's answers are not the original's; UsageError
    for an unknown format and a name that does not end as the format's files do.
    """
    kind, out = _format(format, Path(out)), Path(out)
    telemetry.switch_off()
    with _written(kind, out, overwrite) as folder:
        return _export(path, out, format, images, folder, tell)


@checked
def export(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    format: str,
    data: str | os.PathLike[str] | Dataset | None = None,
    force: bool = False,
    showing: Showing | None = None,
) -> Exported:
    """As `export_bundle`, compared on images of `data`: `depthwise export` in Python. force: replace the file `out`."""
    tell = (showing or Showing()).note
    check_free(_format(format, Path(out)).files(Path(out))[0], force)
    config = read_bundle(path).config
    images = None if data is None else find_images(data, config.preprocess, config.training.get("columns"))
    return export_bundle(path, out, format, images=images, overwrite=force, tell=tell)


def _format(name: str, out: Path) -> Format:
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    kind = FORMATS[name]
    _check_suffix(kind, name, out)
    _check_packages(kind, name)
    return kind


def _export(
    path: str | os.PathLike[str],
    out: Path,
    format: str,
    images: Sequence[Given] | None,
    folder: Path,
    tell: Callable[[str], None],
) -> Exported:
    kind, bundle = FORMATS[format], read_bundle(path)
    precision = (bundle.config.compiled or {}).get("precision", "fp32")
    if precision != "fp32":
        tell(
            f"{bundle.path} is compiled in {precision}, and is exported as the network that it was made of, in float32"
        )
    module = load_module(bundle)
    # Towers are for training. They are never called, and would travel along all the same.
    module.aux = nn.ModuleDict()
    if format == "onnx":
        _check_size(bundle.path, module)
    preprocess = bundle.config.preprocess
    x = preprocess.normalise(_pixels(images, preprocess)).contiguous()
    expected = _expected(bundle.path, module, x)
    text = json.dumps(replace(bundle.config, compiled=None).to_json())
    with _quiet():
        file = folder / out.name
        kind.write(_program(module, x.shape), text, file)
        run, text_inside = kind.read(file)
        error = _error(run, x, expected)
        runtime = f"{kind.runtime} {version(kind.runtime)}"
        if not error <= TOLERANCE:
            raise DepthwiseError(
                f"{bundle.path}: in {runtime} its logits differ by {error:.2g} of the largest, more than "
                f"{TOLERANCE:g}, and nothing is written: use another version of it, or another format"
            )
        if text_inside != text:
            raise DepthwiseError(
                f"{bundle.path}: {runtime} gives other class names and preprocessing back than were written, and "
                f"nothing is left behind: use another version of it, or another format"
            )
        num_bytes = sum(part.stat().st_size for part in kind.files(file))
        _publish(kind.files(file), kind.files(out))
    return Exported(kind.files(out), num_bytes, format, kind.runtime, version(kind.runtime), error, len(x))


def find_images(
    spec: str | os.PathLike[str] | Dataset, preprocess: Preprocess, kept_columns: Any = None
) -> list[Callable[[], Tensor]]:
    """What reads images of `spec`: those of the test part first, then val, then the others, each part in random order.

    kept_columns: how a manifest is read, see `open_images`. Raises UsageError if there is nothing of the name.
    """
    splits = open_images(spec, channels=preprocess.channels, kept_columns=kept_columns).splits
    found: list[Callable[[], Tensor]] = []
    for part in sorted(splits, key=("test", "val", *splits).index):
        split = with_white_level(splits[part], preprocess.white_level)
        images = [partial(split.image, i) for i in evenly(range(len(split)), 100 * NUM_IMAGES)]
        random.Random(0).shuffle(images)
        found += images
    return found


def _check_suffix(kind: Format, format: str, out: Path) -> None:
    suffix = kind.suffixes[0]
    if out.suffix != suffix:
        raise UsageError(
            f"{out} does not end in {suffix}, as files of {format} do: name it {out.with_suffix(suffix)}"
        )


def _check_names(kind: Format, out: Path, overwrite: bool) -> None:
    for file in kind.files(out):
        if file.is_dir():
            raise DepthwiseError(f"{file} is a folder: choose another name")
        if os.path.lexists(file) and not overwrite:
            raise DepthwiseError(f"{file} exists and is not overwritten: choose another name or add --force")


def _check_packages(kind: Format, format: str) -> None:
    missing = [package for package in kind.packages if find_spec(package) is None]
    if missing:
        raise DepthwiseError(
            f"{format} needs {' and '.join(missing)}, not installed here: pip install 'depthwise[export]'"
        )


def _check_size(path: Path, module: nn.Module) -> None:
    num_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
    if num_bytes >= ONNX_BYTES:
        raise DepthwiseError(
            f"{path} has {num_bytes / 1e9:.2g} GB of weights and a file of ONNX holds {ONNX_BYTES / 1e9:.2g}: export "
            f"it as openvino or torch"
        )


def _pixels(images: Sequence[Given] | None, preprocess: Preprocess) -> Tensor:
    """uint8 [NUM_IMAGES, C, h, w]"""
    if images is None:
        generator = torch.Generator().manual_seed(0)
        shape = (NUM_IMAGES, *preprocess.shape)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    decoding = Decoding(white_level=preprocess.white_level)
    pixels: list[Tensor] = []
    for image in images:
        try:
            given = image() if callable(image) else image
            pixels.append(preprocess.pixels(decode(given, preprocess.channels, decoding)))
        except UnreadableImageError:
            continue
        if len(pixels) == NUM_IMAGES:
            return torch.stack(pixels)
    raise DepthwiseError(
        f"of the images to compare on {len(pixels)} can be read, and {NUM_IMAGES} are needed: give more, or none at all"
    )


def _program(module: nn.Module, shape: torch.Size) -> ExportedProgram:
    # An example of one image would fix the batch to one.
    example = torch.zeros(2, *shape[1:])
    program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim("batch", min=1)},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # full of this machine's paths, and larger than a small network
    return program


def _expected(path: Path, module: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        logits = module(x)
    if not logits.isfinite().all():
        raise DepthwiseError(
            f"the answers of {path} are not finite, its training diverged or its weights are damaged: train again with "
            f"a lower learning rate"
        )
    return logits


def _error(run: Run, x: Tensor, expected: Tensor) -> float:
    with torch.inference_mode():
        answers = torch.stack([run(x), torch.cat([run(image[None]) for image in x])])
    return float((answers - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@contextmanager
def _written(kind: Format, out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder for the files that are to be `out`, for one process at a time, which is told before the work."""
    try:
        with reserved(out):
            _remove_half(kind, out)
            _check_names(kind, out, overwrite)
            with written_folder(out) as folder:
                yield folder
    except OSError as error:
        raise named(error, out) from error


def _remove_half(kind: Format, out: Path) -> None:
    """Take away what a process has published that was killed in the midst of it: without the first file it is none."""
    first, *others = kind.files(out)
    if os.path.lexists(first) or not (partial_of(out) / first.name).is_file():
        return
    for file in others:
        if not (partial_of(out) / file.name).exists():
            file.unlink(missing_ok=True)


def _publish(files: Sequence[Path], names: Sequence[Path]) -> None:
    """Give the files their names, that of the first last: once it is there, all of it is."""
    if len(names) > 1:
        names[0].unlink(missing_ok=True)  # an old one must not be read with the other's new file
    for file, name in reversed(list(zip(files, names, strict=True))):
        with file.open("rb") as written:
            os.fsync(written.fileno())
        file.replace(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converters say of their own affairs: warnings, log lines, progress on standard output."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def _write_onnx(program: ExportedProgram, text: str, file: Path) -> None:
    written = torch.onnx.export(
        program,
        program.example_inputs[0],
        dynamo=True,
        opset_version=ONNX_OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    assert written is not None
    written.model.metadata_props[KEY] = text
    written.save(file, external_data=False)


def _read_onnx(file: Path) -> tuple[Run, str]:
    session = onnxruntime_session(file)

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map[KEY]


def _write_openvino(program: ExportedProgram, text: str, file: Path) -> None:
    import openvino

    # From a program: of the network itself it cannot convert max pooling with padding.
    model = openvino.convert_model(program)
    model.reshape([-1, *program.example_inputs[0][0].shape[1:]])
    model.inputs[0].set_names({INPUT})
    model.outputs[0].set_names({OUTPUT})
    model.set_rt_info(text, KEY)
    openvino.save_model(model, file, compress_to_fp16=False)


def _read_openvino(file: Path) -> tuple[Run, str]:
    import openvino

    model = openvino.Core().read_model(file)
    # Processors that have bfloat16 would use it.
    compiled = openvino_network(model, INFERENCE_PRECISION_HINT="f32")

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(compiled({INPUT: x.numpy()})[OUTPUT])

    return run, model.get_rt_info(KEY).astype(str)


def _write_torch(program: ExportedProgram, text: str, file: Path) -> None:
    program.example_inputs = None  # it would be in the file
    torch.export.save(program, file, extra_files={KEY: text})


def _read_torch(file: Path) -> tuple[Run, str]:
    extra = {KEY: ""}
    return torch.export.load(file, extra_files=extra).module(), extra[KEY]


FORMATS = {
    "onnx": Format((".onnx",), ("onnx", "onnxscript", "onnxruntime"), "onnxruntime", _write_onnx, _read_onnx),
    "openvino": Format((".xml", ".bin"), ("openvino",), "openvino", _write_openvino, _read_openvino),
    "torch": Format((".pt2",), (), "torch", _write_torch, _read_torch),
}
