"""What `load` gives runs on the native kernels once that pays, with the same answers whatever the cache holds."""

import json
import os
import random
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.processes import Forked
from torch import Tensor, nn

from depthwise.bundle import CONFIG, read_bundle
from depthwise.errors import DepthwiseError, UsageError
from depthwise.infer import CompiledModule, eventual, kept, trace
from depthwise.infer.eventual import FEW, FEW_KEPT, Eventual
from depthwise.infer.kept import Keeper
from depthwise.ship.load import keeper_of, load, load_compiled, load_module

SHAPE = (3, 32, 32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept traces, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "depthwise" / "traces"


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(0))


def network(tiny_bundle: Path) -> Eventual:
    module = load_compiled(read_bundle(tiny_bundle))
    assert isinstance(module, Eventual)
    return module


def right(tiny_bundle: Path, images: Tensor, answers: Tensor) -> bool:
    with torch.inference_mode():
        expected = load_module(read_bundle(tiny_bundle))(images)
    return bool((answers - expected).abs().max() <= 1e-5 * expected.abs().max())


def no_tracing(*_: Any) -> Any:
    raise AssertionError("traced")


def test_few_images_run_on_pytorch_and_many_in_the_plan(
    tiny_bundle: Path, cache: Path, images: Tensor
) -> None:
    module = network(tiny_bundle)
    with torch.inference_mode():
        for count in (1, FEW - 1):
            assert right(tiny_bundle, images[:count], module(images[:count]))
            assert not isinstance(module.run, CompiledModule)
        assert right(tiny_bundle, images[:1], module(images[:1]))
    assert isinstance(module.run, CompiledModule)
    assert (module.run.precision, module.run.engine) == ("fp32", "native")
    assert len(list(cache.iterdir())) == 1


def test_a_batch_of_many_is_planned_for_at_once(tiny_bundle: Path, cache: Path, images: Tensor) -> None:
    module = network(tiny_bundle)
    assert right(tiny_bundle, images, module(images))
    assert isinstance(module.run, CompiledModule)


def test_the_second_time_nothing_is_traced_and_other_weights_share_it(
    tiny_bundle: Path, cache: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(tiny_bundle)(images)
    monkeypatch.setattr(trace, "trace", no_tracing)
    module = network(tiny_bundle)
    module(images[:FEW_KEPT])
    assert not isinstance(module.run, CompiledModule)
    assert right(tiny_bundle, images[:1], module(images[:1]))
    assert isinstance(module.run, CompiledModule)
    bundle = read_bundle(tiny_bundle)
    other = load_module(bundle)
    torch.nn.init.normal_(other.classifier.weight)
    expected = other(images)
    answers = Eventual(other, SHAPE, keeper_of(bundle))(images)
    assert (answers - expected).abs().max() <= 1e-5 * expected.abs().max()


def sealed(file: Path, text: str) -> None:
    file.write_text(f"{kept._digest(file.name + text)}\n{text}")


def damage(kind: str, file: Path) -> None:
    text = file.read_text().partition("\n")[2]
    match kind:
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(file.read_bytes()[:-100])
        case "bit":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        case "binary":
            file.write_bytes(os.urandom(1000))
        case "other":  # another network's, under this one's name
            values = json.dumps(trace.to_json(trace.trace(nn.Conv2d(3, 5, 3), torch.zeros(1, *SHAPE))))
            name = "other.json"
            file.write_text(f"{kept._digest(name + values)}\n{values}")
        case "folder":
            file.unlink()
            file.mkdir()
        case "pipe":
            file.unlink()
            os.mkfifo(file)
        case "deep":
            sealed(file, "[" * 100_000)
        case "later":
            sealed(file, text.replace('{"node": 1}', '{"node": 400}'))
        case "negative":
            sealed(file, text.replace('{"node": 1}', '{"node": -1}'))
        case "attribute":
            sealed(file, text.replace('"target": "conv2d"', '"target": "_init__"'))


DAMAGES = [
    "empty",
    "cut",
    "bit",
    "binary",
    "other",
    "folder",
    "pipe",
    "deep",
    "later",
    "negative",
    "attribute",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_entry_is_no_entry(tiny_bundle: Path, cache: Path, images: Tensor, kind: str) -> None:
    network(tiny_bundle)(images)
    [file] = cache.iterdir()
    damage(kind, file)
    module = network(tiny_bundle)
    assert right(tiny_bundle, images, module(images))


def test_answers_are_right_whatever_the_cache_holds(
    tiny_bundle: Path, cache: Path, images: Tensor, fuzz_seed: int
) -> None:
    """Sealed as if it were ours, but changed: it is traced anew, has no plan, or is found to answer otherwise."""
    network(tiny_bundle)(images)
    [file] = cache.iterdir()
    text = file.read_text().partition("\n")[2]
    draw = random.Random(fuzz_seed)
    odd: list[Any] = [
        0,
        -1,
        1,
        2,
        3,
        7,
        2**31 - 1,
        2**40,
        1e300,
        None,
        True,
        "x",
        [],
        [1],
        [3, 3],
        {"node": 0},
        {},
    ]
    for _ in range(60):
        values = json.loads(text)
        for _ in range(draw.choice((1, 1, 2, 5))):
            place = draw.choice(values[0])
            key = draw.choice(list(place))
            if draw.random() < 0.5 and isinstance(place[key], list) and place[key]:
                place[key][draw.randrange(len(place[key]))] = draw.choice(odd)
            else:
                place[key] = draw.choice(odd)
        sealed(file, json.dumps(values))
        assert right(tiny_bundle, images[:4], network(tiny_bundle)(images[:4]))


def test_a_cache_that_cannot_be_written_is_not_needed(
    tiny_bundle: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    module = network(tiny_bundle)
    assert right(tiny_bundle, images, module(images))
    assert isinstance(module.run, CompiledModule)


def test_the_cache_does_not_grow_without_end(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_KEPT", 2)
    for size in (8, 9, 10, 11):
        Keeper({"model": "conv"}).lower(nn.Conv2d(3, 16, 3), torch.zeros(1, 3, size, size))
    assert len(list(cache.iterdir())) == 2


def test_what_has_no_plan_stays_on_pytorch_without_a_word(
    cache: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Hardshrink(), nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.randn(40, 3, 8, 8)
    expected = plain(x)
    for _ in range(2):
        module = Eventual(plain, (3, 8, 8), Keeper({"model": "hardshrink"}))
        assert torch.equal(module(x), expected)
        assert module.run is plain
        monkeypatch.setattr(trace, "trace", no_tracing)  # that it has none is known the second time
    assert not recwarn.list


def test_a_plan_with_other_answers_is_not_used(
    tiny_bundle: Path, cache: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(module: nn.Module, *_: Any, **__: Any) -> nn.Module:
        return nn.Sequential(module, nn.Softmax(1))

    monkeypatch.setattr(eventual, "compile", wrong)
    assert right(tiny_bundle, images, network(tiny_bundle)(images))


def test_many_threads_get_right_answers_while_the_plan_is_made(
    tiny_bundle: Path, cache: Path, images: Tensor
) -> None:
    module = network(tiny_bundle)

    def ask(number: int) -> bool:
        with torch.inference_mode():
            part = images[number % 20 : number % 20 + 1 + number % 3]
            return right(tiny_bundle, part, module(part))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(60)))
    assert isinstance(module.run, CompiledModule)


def configured(tiny_bundle: Path, tmp_path: Path, **compiled: Any) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    config = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps({**config, "compiled": compiled}))
    return copy


def answer_and_tell(path: str, options: str) -> None:
    answers = load(Path(path), **json.loads(options))([torch.zeros(3, 40, 40, dtype=torch.uint8)] * 40)
    print(len(answers), *(name in sys.modules for name in ("openvino", "onnxruntime")))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_an_engine_that_a_bundle_names_is_started_only_if_asked_for(
    tiny_bundle: Path, tmp_path: Path, engine: str
) -> None:
    path = configured(tiny_bundle, tmp_path, engine=engine, precision="fp32")

    def started(**options: str) -> tuple[list[str], str]:
        done = Forked(answer_and_tell, str(path), json.dumps(options)).wait()
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), done.stderr

    others, stderr = started()
    assert others == ["40", "False", "False"]
    assert (
        f"was compiled for {engine} and is run by our own kernels: to have it run by {engine}, say so"
        in stderr
    )
    asked, stderr = started(engine="bundle")
    assert asked == ["40", str(engine == "openvino"), str(engine == "onnxruntime")]
    assert "warning" not in stderr.lower()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"engine": "torch"}, None),
        ({"engine": "native"}, ("native", "fp32")),
        ({"precision": "bf16"}, ("native", "bf16")),
        ({"engine": "torch", "precision": "bf16"}, ("torch", "bf16")),
    ],
    ids=str,
)
def test_engine_and_precision_are_what_is_asked_for(
    tiny_bundle: Path, cache: Path, options: dict[str, Any], kind: tuple[str, str] | None
) -> None:
    module = load(tiny_bundle, **options).module
    found = (module.engine, module.precision) if isinstance(module, CompiledModule) else None
    assert found == kind


def test_unknown_engines_and_precisions_are_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="unknown engine 'opnvino': use one of openvino"):
        load(tiny_bundle, engine="opnvino")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown precision"):
        load(tiny_bundle, precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="are for the CPU"):
        load(tiny_bundle, device="meta", engine="native")


def test_compiled_bundles_are_traced_once(
    tiny_bundle: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configured(tiny_bundle, tmp_path, engine="native", precision="bf16")
    load(path)
    monkeypatch.setattr(trace, "trace", no_tracing)
    module = load(path).module
    assert isinstance(module, CompiledModule)
    assert module.precision == "bf16"


def test_an_engine_that_cannot_is_an_error_if_it_was_asked_for(tiny_bundle: Path, tmp_path: Path) -> None:
    path = configured(tiny_bundle, tmp_path, engine="onnxruntime", precision="bf16")
    with pytest.raises(
        DepthwiseError, match="is not run by onnxruntime in bf16: onnxruntime is not used in bf16"
    ):
        load(path, engine="bundle")
