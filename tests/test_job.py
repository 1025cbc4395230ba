"""A run asked for in Python: the same bits, files and sentences as the command's."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.processes import Forked

import depthwise
from depthwise.cli.app import run as command
from depthwise.data import Preprocess, open_dataset
from depthwise.errors import DepthwiseError, UsageError
from depthwise.job import Job, Run
from depthwise.train.recipe import Recipe
from depthwise.train.run import Silent
from depthwise.training import train

SMALL: dict[str, Any] = {
    "width": 0.05,
    "middle": (8,),
    "size": 16,
    "epochs": 2,
    "batch_size": 100,
    "workers": 0,
}


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.looked = False

    def looking(self, done: int, total: int) -> None:
        self.looked = True

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "first"
    return train("digits", model="xception", out=out, watcher=Silent(), **SMALL)


def test_it_is_the_command_in_python(trained: Run, tmp_path: Path) -> None:
    settings = [f"{key}={value}" for key, value in SMALL.items() if key != "workers"]
    tokens = [
        "train",
        "--data",
        "digits",
        "--model",
        "xception",
        "--out",
        str(tmp_path / "run"),
        "--workers",
        "0",
    ]
    assert command([*tokens, "--set", *settings]) == 0
    weights = "bundle/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (trained.out / weights).read_bytes()
    assert depthwise.train is train
    assert depthwise.Job is Job


def test_the_report_says_how_to_do_it_again_from_a_shell(trained: Run, tmp_path: Path) -> None:
    words = json.loads((trained.out / "run.json").read_text())["command"]
    assert words[:2] == ["depthwise", "train"]
    assert words[words.index("--out") + 1] == str(trained.out)
    again = tmp_path / "again"
    words[words.index("--out") + 1] = str(again)
    assert command(words[1:]) == 0
    weights = "bundle/model.safetensors"
    assert (again / weights).read_bytes() == (trained.out / weights).read_bytes()


def test_what_a_run_gives(trained: Run) -> None:
    assert trained.evaluation.num_images == 360
    assert re.fullmatch(r"Run\('.*first': \d+\.\d\d% of 360 test images are right \(.*\)\)", repr(trained))
    image = open_dataset("digits").splits["test"].image(0)
    assert trained.predictor(image).classes[0] in map(str, range(10))
    assert trained.predictor is trained.predictor
    page = trained.report._repr_html_()
    assert page.startswith('<iframe srcdoc="&lt;!')
    assert Path(trained.report) == trained.out / "report.html"


def test_a_run_goes_on_by_other_settings(tmp_path: Path) -> None:
    settings = SMALL | {"schedule": "constant"}
    first = train("digits", model="xception", out=tmp_path / "run", watcher=Silent(), **settings)
    longer = first.resume(watcher=Silent(), epochs=3)
    whole = train(
        "digits", model="xception", out=tmp_path / "whole", watcher=Silent(), **settings | {"epochs": 3}
    )
    assert longer.result.step == whole.result.step > first.result.step
    weights = "bundle/model.safetensors"
    assert (longer.out / weights).read_bytes() == (whole.out / weights).read_bytes()
    later = train(out=tmp_path / "run", resume=True, watcher=Silent(), workers=0)
    assert later.result.step == longer.result.step


def test_recipe_and_data_set_may_be_ones_own(tmp_path: Path) -> None:
    arguments = {"width": 0.05, "middle": (8,), "stem": "small"}
    recipe = Recipe("mine", model_args=arguments, preprocess=Preprocess((16, 16)), epochs=0.1, batch_size=100)
    done = train(open_dataset("digits"), recipe=recipe, out=tmp_path / "run", watcher=Silent(), workers=0)
    facts = json.loads((done.out / "run.json").read_text())
    assert facts["recipe"]["name"] == "mine"
    assert facts["command"] == []
    assert facts["data"]["spec"] == open_dataset("digits").name


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "data is missing: name a folder of images, a manifest, or digits or fashion-mnist"),
        ({"data": "nowhere"}, "'nowhere' is not there: give a folder of CLASS/IMAGE"),
        ({"data": Path("digits")}, "'digits' is not there: give a folder of CLASS/IMAGE"),
        ({"data": "digits", "model": "xcption"}, "unknown model 'xcption': use one of xception"),
        ({"data": "digits", "recipe": "smal"}, "unknown recipe 'smal': use one of small"),
        ({"data": "digits", "epoch": 3}, "unknown setting 'epoch': use one of epochs"),
        ({"data": "digits", "epochs": "many"}, "epochs='many' must be a number"),
        ({"data": "digits", "freeze": True}, "freeze=True trains the classifier alone"),
        ({"data": "digits", "minutes": 1, "epochs": 2}, "leave one of them out"),
        ({"data": "digits", "init": "nowhere"}, "nowhere does not exist: give a bundle folder"),
        ({"data": 5}, "data=5 is no data set: give a folder"),
        ({"data": ["a"]}, "is no data set: give a folder"),
        ({"data": "digits", "model": 3}, "model=3 is no name"),
        ({"data": "digits", "recipe": {"a": 1}}, "is no recipe: give the name of one"),
        ({"data": "digits", "workers": "two"}, "workers='two' must be a whole number"),
        ({"resume": True}, "holds no run"),
        ({"resume": True, "finish": True}, "finish=True takes the run in out as it is"),
        ({"finish": True, "epochs": 2}, "finish=True takes the run in out as it is"),
        ({"resume": True, "init": "x"}, "resume=True goes on with the run's own weights: leave init out"),
        ({"resume": True, "model": "xception"}, "leave recipe and model out"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    arguments: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((DepthwiseError, UsageError), match=re.escape(sentence)):
        train(out=tmp_path / "run", watcher=Silent(), **arguments)
    assert list(tmp_path.iterdir()) == []


def fill(root: Path) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (20, 20), (40 * i, 90, len(name))).save(root / name / f"{i}{name}.png")
    return root


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"out": "taken"}, "taken holds a run already: go on with resume=True, replace it with force=True"),
        ({"out": "other", "force": True}, "other exists and holds no run: choose another out"),
        ({"out": "other/file", "force": True}, "other/file exists and holds no run: choose another out"),
        ({"out": "other/file/run"}, "other/file/run cannot be written (Not a directory)"),
        ({"out": "/proc/run/a"}, "/proc/run/a cannot be written (No such file or directory)"),
        ({"device": "cuda:9"}, "device 'cuda:9' cannot be used here"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"epochs": -1}, "epochs=-1 must be above 0"),
        ({"size": 0}, "size=(0, 0): 0 must be at least 1"),
        ({"size": 8000, "crop_fraction": 0.5}, "resize images to 16,000 pixels"),
        ({"width": -1}, "width=-1 must be"),
        ({"keep": "averaged", "averaging": 0}, "keep=averaged needs an average"),
        ({"resume": True, "out": "taken", "epochs": "many"}, "epochs='many' must be a number"),
        ({"resume": True, "out": "taken", "device": "gpu"}, "device 'gpu' cannot be used here"),
    ],
)
def test_what_takes_no_time_is_refused_before_the_images_are_looked_over(
    trained: Run, arguments: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(Path("data"))
    Path("taken").symlink_to(trained.out)
    Path("other").mkdir()
    Path("other/file").write_text("mine")
    heard = Heard()
    data = None if "resume" in arguments else "data"
    with pytest.raises(DepthwiseError, match=re.escape(sentence)):
        train(data, watcher=heard, **{"out": "run", **arguments})
    assert not heard.looked
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "other", "taken"]
    assert [*Path("other").iterdir()] == [Path("other/file")]


def test_a_value_that_only_some_data_allow_waits_for_the_data(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="takes xception at least"
    ):  # 8,000 pixels would be refused of photographs
        train("digits", out=tmp_path / "run", watcher=Silent(), size=8000, batch_size=1000)


def test_a_run_that_has_ended_is_not_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(Path("data"))
    few = SMALL | {"batch_size": 4, "schedule": "constant"}
    first = train("data", model="xception", out="run", watcher=Silent(), **few)
    expected = first.evaluation.to_json()
    shutil.move("data", "elsewhere")  # nothing is asked of it
    kept = {path: path.read_bytes() for path in first.out.rglob("*") if path.is_file()}
    heard = Heard()
    again = train(out="run", resume=True, watcher=heard)
    assert heard.lines == [
        "run had ended already, and came to what follows; --set epochs=N trains on, up to N epochs"
    ]
    assert again.evaluation.to_json() == expected
    assert again.evaluation.top1 == first.evaluation.top1
    assert (again.result.split, again.result.weights, again.result.step) == (
        first.result.split,
        first.result.weights,
        first.result.step,
    )
    with pytest.raises(AttributeError, match=r"labels is not in evaluation.json, which has images"):
        again.evaluation.labels  # noqa: B018
    assert command(["train", "--out", "run", "--resume", "--json"]) == 0
    printed = capsys.readouterr()
    assert "run had ended already" in printed.err
    assert json.loads(printed.out)["confusion"] == expected["confusion"]
    assert {path: path.read_bytes() for path in first.out.rglob("*") if path.is_file()} == kept
    shutil.move("elsewhere", "data")
    longer = first.resume(watcher=Silent(), epochs=4)
    assert longer.result.step == 2 * first.result.step
    (longer.out / "evaluation.json").unlink()  # what is not whole is made anew
    assert train(out="run", resume=True, watcher=Silent()).result.step == longer.result.step
    assert (longer.out / "evaluation.json").exists()


def test_what_a_person_should_know_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    (tmp_path / "data" / "dog" / "notes.txt").write_text("not an image")
    heard = Heard()
    train(
        tmp_path / "data", model="xception", out=tmp_path / "run", watcher=heard, **SMALL | {"batch_size": 4}
    )
    assert any(line.startswith("ignored: ") for line in heard.lines), heard.lines


def train_and_print() -> None:
    print(depthwise.train("digits", model="xception", out="run", **SMALL))


def test_a_log_has_lines_and_no_bar(tmp_path: Path) -> None:
    done = Forked(train_and_print, cwd=tmp_path).wait()
    assert done.returncode == 0, done.stderr
    assert "test at step " in done.stderr
    assert done.stdout.startswith("Run('run': ")
    assert "\x1b" not in done.stderr


def test_the_other_commands_in_python(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = depthwise.evaluate(trained.out, "digits", report=tmp_path / "page.html")
    assert measured.to_json()["confusion"] == trained.evaluation.to_json()["confusion"]
    assert measured.loss == pytest.approx(trained.evaluation.loss)
    assert "page.html" in capsys.readouterr().err
    compiled = depthwise.compile(trained.out, out=tmp_path / "fast", precision="bf16", data="digits")
    assert compiled.precision == "bf16"
    assert compiled.num_images == 360
    written = depthwise.export(trained.out, out=tmp_path / "network.pt2", format="torch", data="digits")
    assert written.files == (tmp_path / "network.pt2",)
    assert depthwise.load(trained)(depthwise.open_dataset("digits").splits["test"].image(0)).classes
    for call, sentence in (
        (
            lambda: depthwise.evaluate(trained, "digits", spilt="val"),
            "unknown argument 'spilt': use one of split",
        ),
        (
            lambda: depthwise.evaluate(trained, "digits", split="foo"),
            "unknown split 'foo': use one of all, test",
        ),
        (
            lambda: depthwise.evaluate(trained, "digits", split="val"),
            "digits has no val part: it has train, test, and split='all' takes all of it",
        ),
        (
            lambda: depthwise.evaluate(trained, "digits", report=tmp_path / "page.html"),
            "page.html exists and is not overwritten: choose another name or add force=True",
        ),
        (
            lambda: depthwise.export(trained, out=tmp_path / "network.pt2", format="torch", data="digits"),
            "network.pt2 exists and is not overwritten: choose another name or add force=True",
        ),
        (lambda: depthwise.evaluate(5, "digits"), "path=5 must be a text or a path"),
        (
            lambda: depthwise.compile(trained, out=tmp_path / "x", precision="bf61"),
            "unknown precision 'bf61'",
        ),
        (lambda: depthwise.export(trained, out=5, format="torch"), "out=5 must be a text or a path"),
        (lambda: depthwise.load(None), "None is no path"),
        (lambda: trained.predictor(5), "int is no image"),
        (lambda: train("digits", out=5), "out=5 is no path"),
    ):
        with pytest.raises(DepthwiseError, match=re.escape(sentence)):
            call()
    with pytest.raises(DepthwiseError, match="the network knows no class"):
        depthwise.evaluate(trained.out, "fashion-mnist")
    with pytest.raises(DepthwiseError, match="force=True"):
        depthwise.compile(trained.out, out=tmp_path / "fast")


def test_more_processes_than_parts_of_an_update_are_refused_before_any_starts(tmp_path: Path) -> None:
    for given in ({"virtual_shards": 2}, {"recipe": Recipe(name="own", epochs=1, virtual_shards=2)}):
        with pytest.raises(UsageError, match="4 processes have 2 shards of each update between them"):
            depthwise.train("digits", out=tmp_path / "r", processes=4, **given)
    assert not [*tmp_path.iterdir()]
