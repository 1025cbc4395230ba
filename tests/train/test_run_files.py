"""The run directory: whose it is, what may lie in it, and what its files say when they are not as they were written."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.processes import command, start

import depthwise
from depthwise.data import open_dataset, region
from depthwise.data.dataset import Dataset
from depthwise.data.pack import pack
from depthwise.errors import DepthwiseError
from depthwise.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from depthwise.train.files import RunFiles, write_json
from depthwise.train.loop import Trainer
from depthwise.train.run import Silent, train

MakeTrainer = Callable[..., Trainer]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on digits, done by the real command line; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    settings = ["width=0.05", "middle=(8,)", "size=8", "epochs=2", "batch_size=200", "schedule=constant"]
    done = command("train", "--data", "digits", "--model", "xception", "--out", str(out), "--set", *settings)
    assert done.returncode == 0, done.stderr
    return out


def copy(run: Path, to: Path) -> RunFiles:
    shutil.copytree(run, to)
    return RunFiles(to)


class Heard(Silent):
    """A Watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def resume(
    files: RunFiles,
    make_trainer: MakeTrainer,
    digits: Dataset,
    watcher: Silent | None = None,
    *,
    finish: bool = False,
    **options: bool,
) -> None:
    from depthwise.train.recipe import Recipe

    recipe = Recipe.from_json(json.loads(files.run.read_text())["recipe"])
    trainer = make_trainer(**vars(recipe))
    how = {"resume": not finish, "finish": finish, **options}
    train(recipe, trainer.module, digits, files.root, watcher=watcher, **how)


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    slow = ["--data", "digits", "--set", "epochs=10000", "averaging=0"]
    first = start("train", "--out", str(out), *slow)
    try:
        first.wait_for((out / "checkpoints" / "last.safetensors").exists)
        for arguments in (["--resume"], ["--finish"], ["--data", "digits", "--force"]):
            done = command("train", "--out", str(out), *arguments)
            assert done.returncode == 1
            assert done.stderr.endswith(
                f"error: process {first.pid} is writing {out}: wait until it ends, or choose another --out\n"
            )
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    # The kernel has let the lock go with the process.
    with RunFiles(out).locked() as held:
        assert held
    assert not (out / ".lock").exists()


LEFTOVERS = {
    "nothing": [],
    "run.json's": [".run.json.tmp"],
    "a lock": [".lock"],
    "a bundle's": [".bundle.partial/model.safetensors", ".bundle.4711.partial/config.json", ".bundle.lock"],
    "a checkpoint's": ["checkpoints/.last.safetensors.tmp"],
    "all": [".run.json.tmp", ".lock", ".report.html.tmp", "checkpoints/.last.safetensors.tmp"],
    "a start's": [".starting", "metrics.jsonl", "checkpoints/last.safetensors", "events.out.tfevents.1.x"],
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("names", LEFTOVERS.values(), ids=LEFTOVERS)
def test_a_directory_that_holds_only_leftovers_counts_as_absent(
    names: list[str], force: bool, tmp_path: Path
) -> None:
    files = RunFiles(tmp_path / "run")
    files.root.mkdir()
    for name in names:
        (files.root / name).parent.mkdir(exist_ok=True)
        (files.root / name).write_text("half")
    with pytest.raises(DepthwiseError, match="holds no run to resume: leave resume=True out to start one"):
        files.read_run()
    with files.locked():
        files.create(force=force)
    assert {path.name for path in files.root.iterdir()} <= {".starting", ".bundle.lock"}


@pytest.mark.parametrize(
    "name", ["dear.txt", ".dear.txt.tmp", "metrics.jsonl", "model.safetensors", ".hidden"]
)
def test_what_no_run_left_is_not_removed(name: str, tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "run")
    files.root.mkdir()
    (files.root / name).write_text("dear")
    (files.root / ".run.json.tmp").touch()
    for force in (False, True):
        refused = pytest.raises(DepthwiseError, match="exists and holds no run: choose another out")
        with refused, files.locked():
            files.create(force=force)
    assert content(files.root)[name] == b"dear"


def test_force_removes_the_run_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    files = copy(finished, tmp_path / "run")
    (files.root / "notes.txt").write_text("mine")
    with files.locked():
        files.create(force=True)
    assert sorted(os.listdir(files.root)) == [".starting", "notes.txt"]


def test_a_kill_at_any_moment_of_force_leaves_the_old_run_none_or_the_new(
    finished: Path, tmp_path: Path
) -> None:
    """A child that really dies before each of its operations on files in turn, from --force to the first checkpoint."""
    old = content(finished)
    seen = set()
    for survived in range(200):
        files = copy(finished, tmp_path / str(survived))
        child = os.fork()
        if child == 0:
            kill_after(survived)
            begin(files)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        seen.add(state_of(files, old))
        with files.locked():  # whoever comes next finds no lock and can begin
            if not files.run.exists():
                files.create(force=False)
                assert set(os.listdir(files.root)) <= {".starting", ".lock", ".bundle.lock"}
        if os.WIFEXITED(status):
            break
    assert os.WEXITSTATUS(status) == 0, "the child never came to its end"
    assert survived > 15
    assert seen == {"old", "none", "new, from its start", "new"}


def kill_after(survived: int) -> None:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            if count == survived:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(hook)


def begin(files: RunFiles) -> None:
    """What a new run does up to its first checkpoint, in the order of `train`."""
    with files.locked():
        files.create(force=True)
        write_json(files.run, {"new": True})
        save_checkpoint(files.checkpoint, Checkpoint({"step": 0}, {"a": torch.zeros(2)}))
        files.starting.unlink()


def state_of(files: RunFiles, old: dict[str, bytes]) -> str:
    now = {name: value for name, value in content(files.root).items() if name != ".lock"}
    if now == old:
        return "old"
    if not files.run.exists():
        assert files.starting.exists()
        with pytest.raises(DepthwiseError, match="holds no run to resume: leave resume=True out"):
            files.read_run()
        return "none"
    assert json.loads(files.run.read_text()) == {"new": True}
    assert not files.metrics.exists()
    if files.starting.exists():
        assert not files.checkpoint.exists() or load_checkpoint(files.checkpoint).state["step"] == 0
        return "new, from its start"
    assert load_checkpoint(files.checkpoint).state["step"] == 0
    return "new"


def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    finished: Path, make_trainer: MakeTrainer, digits: Dataset, tmp_path: Path
) -> None:
    files = copy(finished, tmp_path / "run")
    values = json.loads(files.run.read_text())
    with files.locked():
        files.create(force=True)
        write_json(files.run, values)
    with pytest.raises(DepthwiseError, match="stopped before its first update"):
        finish(files, make_trainer, digits)
    resume(files, make_trainer, digits)
    assert not files.starting.exists()
    assert content(files.root)["bundle/model.safetensors"] == content(finished)["bundle/model.safetensors"]


def finish(files: RunFiles, make_trainer: MakeTrainer, digits: Dataset) -> None:
    from depthwise.train.recipe import Recipe

    recipe = Recipe.from_json(json.loads(files.run.read_text())["recipe"])
    train(recipe, make_trainer(**vars(recipe)).module, digits, files.root, finish=True)


OBSTACLES: dict[str, tuple[Callable[[RunFiles], object], str]] = {
    "a bundle without config.json": (
        lambda files: (files.bundle / "config.json").unlink(),
        "{root}/bundle has no config.json, so it is no bundle and the run does not replace it: move it away",
    ),
    "a file in the bundle's place": (
        lambda files: (shutil.rmtree(files.bundle), files.bundle.write_text("mine")),
        "{root}/bundle has no config.json, so it is no bundle and the run does not replace it: move it away",
    ),
    "a folder in the report's place": (
        lambda files: (files.report.unlink(), files.report.mkdir()),
        "{root}/report.html is a folder, and the run writes a file there: move it away",
    ),
    "a folder in the evaluation's place": (
        lambda files: (files.evaluation.unlink(), files.evaluation.mkdir()),
        "{root}/evaluation.json is a folder, and the run writes a file there: move it away",
    ),
}


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_could_not_be_written_in_the_end_is_told_before_anything_is_done(
    obstacle: str,
    finish: bool,
    finished: Path,
    tmp_path: Path,
    make_trainer: MakeTrainer,
    digits: Dataset,
) -> None:
    files = copy(finished, tmp_path / "run")
    change, sentence = OBSTACLES[obstacle]
    change(files)
    before, heard = content(files.root), Heard()
    with pytest.raises(DepthwiseError) as refused:
        resume(files, make_trainer, digits, heard, finish=finish)
    assert str(refused.value) == sentence.format(root=files.root)
    assert not heard.messages
    assert content(files.root) == before


def test_finish_makes_a_damaged_bundle_anew(
    finished: Path, tmp_path: Path, make_trainer: MakeTrainer, digits: Dataset
) -> None:
    files = copy(finished, tmp_path / "run")
    with pytest.raises(DepthwiseError, match="has the bundle and the report of its 14 updates of 14 already"):
        resume(files, make_trainer, digits, finish=True)
    weights = files.bundle / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    resume(files, make_trainer, digits, finish=True)
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("option", ["--resume", "--finish"])
def test_a_deleted_checkpoint_is_named(option: str, finished: Path, tmp_path: Path) -> None:
    files = copy(finished, tmp_path / "run")
    files.checkpoint.unlink()
    before = content(files.root)
    done = command("train", "--out", str(files.root), option)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: {files.checkpoint} is missing, and only from there could the run go on: put"
    )
    assert done.stderr.endswith("or start anew with --force\n")
    assert content(files.root) == before


def test_a_deleted_run_json_is_named(finished: Path, tmp_path: Path) -> None:
    files = copy(finished, tmp_path / "run")
    files.run.unlink()
    with pytest.raises(
        DepthwiseError, match=r"run.json is missing: put the file back, or choose another out"
    ):
        files.read_run()


def paths_of(values: Any, *way: Any) -> list[tuple[Any, ...]]:
    """The ways to every value in nested objects; of a list to its first item."""
    inner = (
        values.items()
        if isinstance(values, dict)
        else enumerate(values[:1])
        if isinstance(values, list)
        else ()
    )
    return [way, *(path for key, value in inner for path in paths_of(value, *way, key))]


ODD = [None, True, -1, 2**70, 1.5, "x", [], {}, [[]], {"a": {}}, 1e999, float("nan"), "y" * 20_000]


def test_a_damaged_run_json_is_one_sentence(finished: Path, tmp_path: Path) -> None:
    """Each field missing, and each of every other type: refused in a sentence, or read as one that may be."""
    files = copy(finished, tmp_path / "run")
    text = files.run.read_text()
    whole = {**json.loads(text), "resumes": [{"command": ["x"], "time": "now", "step": 3, "changed": ["y"]}]}
    refused = []
    for path in paths_of(whole)[1:]:
        for value in ["missing", *ODD]:
            values = json.loads(json.dumps(whole))
            place = values
            for key in path[:-1]:
                place = place[key]
            if value == "missing":
                del place[path[-1]]
            else:
                place[path[-1]] = value
            files.run.write_text(json.dumps(values))
            try:
                files.read_run()
            except DepthwiseError as error:
                refused.append(str(error))
    assert len(refused) > 300
    for sentence in refused:
        assert sentence.startswith(f"{files.run} cannot be read (")
        assert sentence.endswith("): put the file back, or start anew with force=True")
        assert len(sentence) < 600
    for key in ("format", "recipe", "versions", "data", "cost", "command"):
        files.run.write_text(json.dumps({name: value for name, value in whole.items() if name != key}))
        with pytest.raises(DepthwiseError, match=f"has no '{key}'"):
            files.read_run()
    files.run.write_text(text)
    files.read_run()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("decoding", value) for value in (True, 7, {"a": 1}, {"max_pixels": True}, {"max_pixels": 0})),
        *(("seed", value) for value in ("x", 1.5, True)),
        *(("nested", value) for value in (1, "yes")),
    ],
)
def test_what_a_resume_reads_of_the_data_is_checked_with_the_rest(
    field: str, value: object, finished: Path, tmp_path: Path
) -> None:
    files = copy(finished, tmp_path / "run")
    run = json.loads(files.run.read_text())
    write_json(files.run, run | {"data": run["data"] | {field: value}})
    with pytest.raises(DepthwiseError, match=r"run.json cannot be read \("):
        files.read_run()


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        "[]",
        "7",
        "\x00",
        "NaN",
        '{"format": 1' + "0" * 5000 + "}",
        "\ud800",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_run_json_that_is_none_is_one_sentence(damage: str, finished: Path, tmp_path: Path) -> None:
    files = copy(finished, tmp_path / "run")
    files.run.write_bytes(damage.encode(errors="surrogatepass"))
    with pytest.raises(
        DepthwiseError, match=r"run.json cannot be read \(.*\): put the file back, or start anew"
    ):
        files.read_run()


def drop_line(lines: list[str]) -> list[str]:
    return [*lines[:3], *lines[4:]]


DAMAGES: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "missing": (lambda lines: [], "metrics.jsonl has 0 whole lines and its checkpoint knows of"),
    "fewer": (lambda lines: lines[:5], "metrics.jsonl has 5 whole lines and its checkpoint knows of"),
    "cut in the middle": (
        lambda lines: [*lines[:2], lines[2][:9], *lines[3:]],
        "metrics.jsonl is damaged in line 3",
    ),
    "not JSON": (lambda lines: ["what?\n", *lines[1:]], "metrics.jsonl is damaged in line 1"),
    "another type": (
        lambda lines: ["[]\n", *lines[1:]],
        "metrics.jsonl is damaged in line 1 (the line is []",
    ),
    "deep": (lambda lines: ["[" * 100_000 + "\n", *lines[1:]], "metrics.jsonl is damaged in line 1"),
    "odd step": (
        lambda lines: ['{"kind": "x", "step": "y"}\n', *lines[1:]],
        "damaged in line 1 (the line has no",
    ),
    "binary": (lambda lines: ["\udcff\udcfe\n", *lines[1:]], "metrics.jsonl cannot be read"),
    "another number": (
        lambda lines: [lines[0].replace('"loss": 2', '"loss": 3'), *lines[1:]],
        "metrics.jsonl is not what the run wrote",
    ),
    "another order": (
        lambda lines: [lines[1], lines[0], *lines[2:]],
        "metrics.jsonl is not what the run wrote",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_metrics_are_one_sentence(
    damage: Callable[[list[str]], list[str]],
    message: str,
    finished: Path,
    make_trainer: MakeTrainer,
    digits: Dataset,
    tmp_path: Path,
) -> None:
    files = copy(finished, tmp_path / "run")
    lines = files.metrics.read_text().splitlines(keepends=True)
    damaged = "".join(damage(lines)).encode(errors="surrogateescape")
    assert damaged != files.metrics.read_bytes()
    files.metrics.write_bytes(damaged) if damaged else files.metrics.unlink()
    with pytest.raises(DepthwiseError) as raised:
        resume(files, make_trainer, digits)
    assert message in str(raised.value)
    assert str(raised.value).endswith("put the file back, or start anew with force=True")
    assert not files.metrics.exists() or files.metrics.read_bytes() == damaged


def test_lines_after_the_checkpoints_are_written_again_even_if_the_last_is_cut(
    finished: Path, make_trainer: MakeTrainer, digits: Dataset, tmp_path: Path
) -> None:
    files = copy(finished, tmp_path / "run")
    whole = files.metrics.read_text()
    files.metrics.write_text(whole[:-20])
    resume(files, make_trainer, digits)
    assert [line["kind"] for line in map(json.loads, files.metrics.read_text().splitlines())] == [
        line["kind"] for line in map(json.loads, whole.splitlines())
    ]


def test_a_checkpoint_of_another_network_is_named(
    finished: Path, make_trainer: MakeTrainer, digits: Dataset, tmp_path: Path
) -> None:
    files = copy(finished, tmp_path / "run")
    checkpoint = load_checkpoint(files.checkpoint)
    tensors = {name.replace("classifier", "head"): tensor for name, tensor in checkpoint.tensors.items()}
    save_checkpoint(files.checkpoint, Checkpoint(checkpoint.state, tensors))
    with pytest.raises(DepthwiseError, match=r"last.safetensors does not fit the network and the recipe in"):
        resume(files, make_trainer, digits)


def test_a_run_of_an_older_version_goes_on(
    finished: Path, make_trainer: MakeTrainer, digits: Dataset, tmp_path: Path
) -> None:
    """Without what newer versions write: resumes, what decodes JPEG, the metrics' digest, the checkpoint's recipe."""
    files = copy(finished, tmp_path / "run")
    values = json.loads(files.run.read_text())
    del values["resumes"], values["versions"]["jpeg"]
    write_json(files.run, values)
    checkpoint = load_checkpoint(files.checkpoint)
    del checkpoint.state["recipe"], checkpoint.state["progress"]["metrics_sha256"]
    save_checkpoint(files.checkpoint, checkpoint)
    resume(files, make_trainer, digits)
    assert content(files.root)["bundle/model.safetensors"] == content(finished)["bundle/model.safetensors"]


def test_another_decoder_of_jpeg_is_named(
    finished: Path, make_trainer: MakeTrainer, digits: Dataset, tmp_path: Path
) -> None:
    files = copy(finished, tmp_path / "run")
    values = json.loads(files.run.read_text())
    assert values["versions"]["jpeg"] == region.status()
    values["versions"]["jpeg"] = "whole files by simplejpeg 1.8.0"
    write_json(files.run, values)
    with pytest.raises(DepthwiseError, match=r"versions\.jpeg: whole files by simplejpeg 1\.8\.0"):
        resume(files, make_trainer, digits)


def jpegs(digits: Dataset, folder: Path) -> Path:
    for index in range(40):
        path = folder / f"{index % 2}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.splits["train"].image(index)[0].numpy()).save(path)
    return folder


def test_a_run_that_cropped_whole_jpeg_files_of_parquet_is_named(digits: Dataset, tmp_path: Path) -> None:
    """What said nothing of parquet decoded the whole file there, when files were decoded in part already."""
    pack(open_dataset(jpegs(digits, tmp_path / "photos")), tmp_path / "set", format="parquet")
    files = RunFiles(tmp_path / "run")
    settings: dict[str, Any] = {"model": "mobilenet_v1", "width": 0.1, "size": 16, "augment.crop": "resized"}
    depthwise.train(tmp_path / "set", out=files.root, batch_size=16, epochs=1, **settings)
    values = json.loads(files.run.read_text())
    assert values["versions"]["jpeg"] == f"{region.status()}, in parquet and tars as well"
    values["versions"]["jpeg"] = region.status()
    write_json(files.run, values)
    with pytest.raises(DepthwiseError, match=r"versions\.jpeg: .* -> .*, in parquet and tars as well"):
        depthwise.train(out=files.root, resume=True, epochs=2)


def test_a_run_of_an_older_version_that_cropped_whole_jpeg_files_is_named(
    make_trainer: MakeTrainer, digits: Dataset, tmp_path: Path
) -> None:
    """Crops are decoded in part now, and where their scale is not 1 with other pixels."""
    folder = jpegs(digits, tmp_path / "photos")
    changes: dict[str, Any] = {"batch_size": 16, "epochs": 1}
    for crop, refused in (("resized", True), ("none", False)):
        settings = {**changes, "augment.crop": crop, "model": "mobilenet_v1", "width": 0.1, "size": 16}
        files = RunFiles(tmp_path / crop)
        depthwise.train(folder, out=files.root, **settings)
        values = json.loads(files.run.read_text())
        del values["versions"]["jpeg"]
        write_json(files.run, values)
        if refused:
            with pytest.raises(DepthwiseError, match=r"versions\.jpeg: whole files -> "):
                depthwise.train(out=files.root, resume=True, epochs=2)
        else:
            depthwise.train(out=files.root, resume=True, log_every=3)


def test_a_network_that_run_json_cannot_mean_is_named(finished: Path, tmp_path: Path) -> None:
    files = copy(finished, tmp_path / "run")
    values = json.loads(files.run.read_text())
    values["recipe"]["model_args"]["width"] = "x"
    write_json(files.run, values)
    done = command("train", "--out", str(files.root), "--resume")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {files.run}: width='x' must be a number")
