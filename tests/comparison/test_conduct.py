"""A whole experiment on digits, by real processes: equal to single runs, taken up after kills, and reported."""

import html
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests import processes

import depthwise
from depthwise.cli.app import run as command
from depthwise.comparison import jobs, worker
from depthwise.comparison.conduct import Order, Printed, conduct
from depthwise.comparison.experiment import Experiment
from depthwise.comparison.jobs import Answers, Assignment, Share, do_all
from depthwise.comparison.plan import differences, place_of
from depthwise.comparison.setting import Setting, mini
from depthwise.errors import DepthwiseError, UsageError
from depthwise.experiments.own import built, parsed, to_json
from depthwise.experiments.sync_async import sync_async
from depthwise.recipes import Traits

ARMS = (
    "--arm=x=samples=1280 eval_every=640 log_every=1 width=1 middle=() entry=(64,) exit=(96,128)",
    "--arm=m=model=mobilenet_v1 samples=1280 eval_every=640 log_every=1",
)
ASKED = (
    "experiment",
    "run",
    "compare",
    *ARMS,
    "--match=parameters",
    "--data=digits",
    "--seeds=2",
    "--jobs=2",
)
ONE_AT_A_TIME = (*ASKED[:-1], "--jobs=1")


@pytest.fixture(scope="module", autouse=True)
def _forked() -> Iterator[None]:
    """Workers do not import torch each: they are forked from a process that has. Those that are begun elsewhere than
    here, by a process that is stopped, are as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_begun", lambda **threads: processes.Piped(worker.main, **threads))
        yield


def numbers(out: Path) -> dict:
    """What has no clock in it."""
    results = json.loads((out / "results.json").read_text())
    for arm in results["arms"]:
        del arm["seconds"]
    return results


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "e"
    assert command([*ASKED, "--out", str(out)]) == 0
    return out


def test_every_arm_with_every_seed(unbroken: Path) -> None:
    results = numbers(unbroken)
    assert [arm["seeds"] for arm in results["arms"]] == [[0, 1], [0, 1]]
    a, b = results["arms"]
    assert abs(b["parameters"] / a["parameters"] - 1) <= 0.01
    assert a["differs"] == []
    assert {line.partition(":")[0].partition(".")[0] for line in b["differs"]} <= {"model", "model_args"}
    assert results["findings"][0]["compared"][0]["interval"]
    page = html.unescape((unbroken / "report.html").read_text())
    words = shlex.split(page.partition('<pre class="card scroll">')[2].partition("</pre>")[0])
    arms = [words[k + 1] for k, word in enumerate(words) if word == "--arm"]
    assert parsed(arms) == parsed([arm.removeprefix("--arm=") for arm in ARMS])
    assert words[words.index("--match") + 1] == "parameters"
    for name in ("report.html", "figures/1-on-the-way.svg", "figures/1-on-the-way.png"):
        assert (unbroken / name).stat().st_size > 1000


@pytest.mark.usefixtures("one_thread")
def test_a_run_is_what_train_makes_of_its_recipe(unbroken: Path, tmp_path: Path) -> None:
    from depthwise.job import Job
    from depthwise.train.recipe import Recipe

    arm = numbers(unbroken)["arms"][0]
    out = unbroken / "runs" / arm["runs"][1]
    recipe = Recipe.from_json(json.loads((out / "run.json").read_text())["recipe"])
    assert recipe.seed == 1
    alone = Job(tmp_path / "alone", "digits", recipe=recipe).do()
    assert alone.evaluation.top1 == arm["scores"]["top1"]["by_seed"][1]


def test_the_same_again_and_one_seed_more_are_not_trained_anew(
    unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (unbroken / "runs").glob("*/report.html")}
    assert command([*ASKED, "--out", str(unbroken)]) == 0
    assert "4 runs of 4 are finished already" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (unbroken / "runs").glob("*/report.html")}
    assert command(["experiment", "report", str(unbroken), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == {"finished": 4, "planned": 4}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_taken_up_it_ends_the_same(unbroken: Path, tmp_path: Path, stop: signal.Signals) -> None:
    out = tmp_path / "e"
    process = processes.start(*ASKED, "--out", str(out))
    process.wait_for(lambda: any(_lines(file) for file in out.glob("runs/*/metrics.jsonl")), seconds=240)
    assert not process.ended, process.printed
    os.kill(process.pid, stop)
    done = process.wait(timeout=240)
    if stop == signal.SIGINT:
        assert done.returncode == 130
        assert "Traceback" not in done.stderr
    _wait_until_free(out)
    assert command([*ASKED, "--out", str(out)]) == 0
    assert numbers(out) == numbers(unbroken)


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def _wait_until_free(out: Path) -> None:
    """Workers end at their next update once the program that asked is gone."""
    from depthwise.train.files import RunFiles

    deadline = time.monotonic() + 240
    for run in (out / "runs").iterdir():
        while run.is_dir():
            try:
                with RunFiles(run).locked():
                    break
            except DepthwiseError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_recipes_are_compared_in_python(unbroken: Path) -> None:
    from depthwise.train.recipe import Recipe

    runs = [json.loads(file.read_text()) for file in sorted((unbroken / "runs").glob("*/run.json"))]
    recipes = [replace(Recipe.from_json(run["recipe"]), seed=0, precision="auto") for run in runs]
    named = {recipe.model: recipe for recipe in recipes}
    results = depthwise.compare(
        [named["xception"], named["mobilenet_v1"]],
        "digits",
        out=unbroken.parent / "p",
        seeds=2,
        runs=unbroken / "runs",
        jobs=2,
    )
    before = {arm["model"]: arm["scores"]["top1"]["by_seed"] for arm in numbers(unbroken)["arms"]}
    assert {name: [o.evaluation["top1"] for o in outcomes] for name, outcomes in results.of.items()} == before
    with pytest.raises(UsageError, match="is no path, and each run is a process"):
        depthwise.compare(recipes, depthwise.open_dataset("digits"), out=unbroken.parent / "q")  # type: ignore[arg-type]
    arm = {"model": "xception"}
    for arms, sentence in (
        (5, "arms=5 are no arms: give settings by name"),
        ({"a": arm, "b": "mobilenet_v2"}, "arm b='mobilenet_v2': give settings"),
        ([arm, 3], "arm 2=3: give settings"),
    ):
        with pytest.raises(UsageError, match=sentence):
            depthwise.compare(arms, "digits", out=unbroken.parent / "q")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seeds='2' must be a whole number"):
        depthwise.compare({"a": arm, "b": arm}, "digits", out=unbroken.parent / "q", seeds="2")  # type: ignore[arg-type]
    assert not (unbroken.parent / "q").exists()
    with pytest.raises(UsageError, match="this has 1 arm"):
        depthwise.compare(recipes[:1], "digits", out=unbroken.parent / "q")


def test_an_experiment_may_be_moved_and_copied(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = numbers(unbroken)
    copy = shutil.copytree(unbroken, tmp_path / "copy")
    (copy / "results.json").unlink()
    place = place_of(copy)
    assert place.runs == copy / "runs"
    assert command(["experiment", "report", str(copy)]) == 0
    assert numbers(copy) == before
    # An earlier version kept where they lay.
    asked = json.loads((copy / "experiment.json").read_text())
    (copy / "experiment.json").write_text(json.dumps({**asked, "runs": str(tmp_path / "before" / "runs")}))
    assert place_of(copy).runs == copy / "runs"
    shutil.rmtree(copy / "runs")
    assert command(["experiment", "report", str(copy)]) == 1
    assert f"{tmp_path / 'before' / 'runs'}, which is not there" in capsys.readouterr().err


def test_a_run_that_was_stopped_by_itself_is_said_to_be(tmp_path: Path) -> None:
    """Not by whoever gave the command: by a signal to its process."""
    run = Assignment("a, seed 0", tmp_path / "a", "digits", {})

    def carry(runs: Sequence[Assignment], share: Share) -> Answers:
        yield run, {"stopped": True}

    with pytest.raises(DepthwiseError, match=r"a, seed 0 .* was stopped: give the command again to go on"):
        do_all([run], Share(), lambda _: None, lambda *_: None, lambda *_: None, carry)


def test_what_is_asked_otherwise_is_named(unbroken: Path) -> None:
    before = place_of(unbroken).read()
    assert before is not None
    assert before.arms is not None
    assert differences(before, replace(before, seeds=9)) == []
    arms = {**before.arms["arms"]}
    name, given = arms.popitem()
    other = {name: {"settings": {**given["settings"], "width": 0.3}}, **arms, "new": {"settings": {}}}
    now = replace(before, scale="small", arms={"arms": other, "match": "macs"})
    assert differences(before, now) == [
        "the scale is small, and was mini",
        f"what arms are brought to is macs, and was {before.arms['match'] or 'nothing'}",
        f"arm {name} has width=0.3, and had {given['settings'].get('width', 'not set')}",
        "arm new is new",
    ]


def test_what_cannot_be_is_a_sentence(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        assert command([*words]) in (1, 2)
        return capsys.readouterr().err

    run = ("experiment", "run")
    (tmp_path / "file").touch()
    assert "is a file, and a directory" in said(
        *run, "order", "--data", "digits", "--out", str(tmp_path / "file")
    )
    assert "the experiment is order, and was compare" in said(
        *run, "order", "--data", "digits", "--out", str(unbroken)
    )
    assert "unknown experiment 'ordr'" in said(*run, "ordr", "--out", str(tmp_path))
    assert "--out is missing" in said(*run, "order")
    assert "a comparison needs two" in said(
        *run, "compare", "--arm", "a=width=0.5", "--out", str(tmp_path / "n")
    )
    assert "holds no experiment" in said("experiment", "report", str(tmp_path))
    assert "unknown scale" in said("experiment", "show", "order", "--scale", "huge")
    assert "--data is missing" in said(*run, "order", "--scale", "paper", "--out", str(tmp_path / "n"))
    unknown = said(
        *run,
        "compare",
        "--arm",
        "a=width=0.5",
        "--arm",
        "b=wdth=1",
        "--data",
        "digits",
        "--out",
        str(tmp_path / "n"),
    )
    assert "wdth" in unknown
    assert not (tmp_path / "n" / "experiment.json").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("wdth=1", "arm b: unknown setting 'wdth'"),
        ("model=xceptoin", "arm b: unknown model 'xceptoin'"),
        ("conv=segments-7", "arm b: conv='segments-7' must cut"),
        ("seed=3", "arm b: seed cannot be set"),
    ],
)
def test_an_arm_that_cannot_be_is_named_before_anything_is_kept(
    tmp_path: Path, settings: str, sentence: str
) -> None:
    arms = to_json(parsed(["a=", f" b={settings}"]), "")
    order = Order("compare", built(arms), "mini", "digits", arms=arms)
    with pytest.raises(DepthwiseError) as raised:
        conduct(order, place_of(tmp_path), Share(), Printed())
    assert str(raised.value).startswith(sentence)
    assert not [*tmp_path.iterdir()]


def test_a_run_that_fails_is_said_to_be_of_which_arm(tmp_path: Path) -> None:
    recipe = mini(Traits(num_train=10, num_classes=2, height=8, width=8))
    lost = Assignment("a, seed 0", tmp_path / "run", str(tmp_path / "lost"), recipe.to_json())
    with pytest.raises(DepthwiseError, match=r"^a, seed 0 \(.*lost"):
        do_all([lost], Share(), lambda run: None, lambda run, step, of: None, lambda run, why: None)


def test_a_damaged_experiment_is_asked_for_anew(tmp_path: Path) -> None:
    place = place_of(tmp_path)
    place.asked.write_text("{")
    with pytest.raises(DepthwiseError, match="remove it and run the experiment again"):
        place.read()


def test_a_run_that_diverges_leaves_the_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = f"{ARMS[0].replace('=x=', '=bad=')} optimizer.lr=1000000 schedule=constant"
    asked = (
        "compare",
        bad,
        ARMS[0],
        "--data",
        "digits",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--out",
        str(tmp_path),
    )
    assert command(["experiment", "run", *asked]) == 1
    said = capsys.readouterr().err
    assert "x, seed 0: " in said
    assert "error: 1 run diverged, the first bad, seed 0" in said
    assert json.loads((tmp_path / "results.json").read_text())["runs"] == {"finished": 1, "planned": 2}
    assert command(["experiment", "report", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == {"finished": 1, "planned": 2}


def test_another_question_takes_nothing_of_the_one_that_it_replaces(unbroken: Path, tmp_path: Path) -> None:
    same = ARMS[0].partition("=x")[2]  # and a name that a drawing might take for a formula
    rest = ("--data", "digits", "--seeds", "1", "--out", str(tmp_path), "--runs", str(unbroken / "runs"))
    assert command(["experiment", "run", "compare", rf"--arm=$\frac$ a{same}", f"--arm=b{same}", *rest]) == 0
    old = tmp_path / "figures" / "9-old.svg", tmp_path / "speed.json"
    for file in old:
        file.write_text("{}")
    other = ("compare", rf"--arm=$\frac$ a{same}", f"--arm=c{same}", *rest)
    assert command(["experiment", "run", *other]) == 1
    assert all(file.exists() for file in old)
    assert command(["experiment", "run", *other, "--force"]) == 0
    assert not any(file.exists() for file in old)


def test_arms_whose_workers_are_made_up_are_judged_by_their_time(tmp_path: Path) -> None:
    names = ("asynchronous, 4", "synchronous, 4")

    def build(setting: Setting) -> Experiment:
        whole = sync_async(setting)
        arms = [
            replace(arm, recipe=replace(arm.recipe, samples=640, eval_every=640, log_every=1))
            for arm in whole.arms
            if arm.name in names
        ]
        return replace(whole, arms=tuple(arms), claims=whole.claims[1:2])

    order, place = Order("sync-async", build, "mini", "digits", seeds=2), place_of(tmp_path / "e")
    results = conduct(order, place, Share(), Printed())
    arms = {arm["name"]: arm for arm in results.to_json()["arms"]}
    scores = {name: arms[name]["scores"] for name in names}
    assert arms[names[0]]["differs"] == ["simulate: workers=4 speed=lognormal"]
    # 20 batches: 5 each, or 5 times that of the slowest of four.
    assert 4 < scores[names[0]]["time"]["mean"] < scores[names[1]]["time"]["mean"] < 12
    assert len({*scores[names[0]]["time"]["by_seed"]}) == 2
    assert scores[names[0]]["staleness"]["mean"] > 2 > scores[names[1]]["staleness"]["mean"] == 0
    assert [outcome.lines[-1]["step"] for outcome in results.outcomes] == [20, 5, 20, 5]
    assert len([*place.figures.glob("*.svg")]) == 5


def test_a_full_disk_names_the_experiments_own_command(tmp_path: Path) -> None:
    out = tmp_path / "e"
    out.mkdir()
    script = f'mount -t tmpfs -o size=1m tmpfs {out} && exec "$@"'
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    words = [*isolated, sys.executable, "-m", "depthwise", *ONE_AT_A_TIME, "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "no space is left: free some, then give the command again, and it goes on there" in last
    assert "--resume" not in last
