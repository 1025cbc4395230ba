"""Every experiment as it stands: its claim, its arms and their budgets, at the scales where that takes seconds."""

import inspect
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from depthwise.cli.app import app
from depthwise.comparison.conduct import _check
from depthwise.comparison.experiment import Experiment
from depthwise.comparison.jobs import Share
from depthwise.comparison.plan import Asked, place_of, planned
from depthwise.comparison.rehearsal import rehearsed
from depthwise.comparison.report import _again, speed_tables
from depthwise.comparison.results import Results
from depthwise.comparison.setting import CLOSE, FASHION_MNIST, IMAGENET, SCALES, Setting
from depthwise.comparison.speed import Taken
from depthwise.data import Columns
from depthwise.errors import DepthwiseError, UsageError
from depthwise.experiments import EXPERIMENTS, claim, find_experiment
from depthwise.models import CATALOGUE
from depthwise.train.recipe import differences

PAPER = Setting(SCALES["paper"], IMAGENET)
MINI = Setting(SCALES["mini"], FASHION_MNIST, channels=1)
QUICK = ("activation", "order", "table3", "multipliers", "chance-plateau", "sync-async")


def leads(experiment: Experiment) -> list[str]:
    """The fields of the recipe, without the parts' own, in which arms differ from the first."""
    first = experiment.arms[0].recipe.to_json()
    found = (differences(first, arm.recipe.to_json()) for arm in experiment.arms)
    return sorted({line.partition(":")[0].partition(".")[0] for lines in found for line in lines})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_says_what_is_claimed_and_where(name: str) -> None:
    text = claim(name)
    assert len(text.split()) > 40
    assert any(source in text for source in ("Chollet 2017", "Howard 2017", "Szegedy 2016", "Papers compare"))


@pytest.mark.parametrize(
    "name", ["table1", "table2", "residual", "training-profiles", "chance-plateau", "factorisation"]
)
@pytest.mark.parametrize("setting", [MINI, PAPER], ids=["mini", "paper"])
def test_networks_do_not_differ_in_dropout_as_well(
    name: str, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Setting, "matched", lambda self, recipe, by, budget: recipe
    )  # widths are nothing to it
    found = set()
    for arm in find_experiment(name)(setting).arms:
        arguments = inspect.signature(CATALOGUE[arm.recipe.model].builder).parameters
        found.add(arm.recipe.model_args.get("dropout", arguments["dropout"].default))
    assert len(found) == 1


def test_dropout_is_what_the_arm_of_dropout_differs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Setting, "matched", lambda self, recipe, by, budget: recipe)
    for setting in (MINI, PAPER):
        arms = find_experiment("regularisation")(setting).arms[:4]
        rates = {arm.name: arm.recipe.model_args["dropout"] for arm in arms}
        assert rates.pop("dropout 0.5") == 0.5
        assert {*rates.values()} == {0.0}


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("setting", [MINI, PAPER], ids=["mini", "paper"])
def test_arms_differ_in_what_is_compared_alone(name: str, setting: Setting) -> None:
    experiment = find_experiment(name)(setting)
    asked = {
        "chance-plateau": {"model", "model_args", "optimizer", "schedule"},
        "multipliers": {"model_args", "preprocess"},
    }
    assert {*leads(experiment)} <= asked.get(name, {"model", "model_args"})
    arms = {arm.name for arm in experiment.arms}
    assert len(arms) == len(experiment.arms)
    assert all({*one.arms} <= arms and one.rule for one in experiment.claims)
    if experiment.matched == "parameters":
        costs = [setting.cost(arm.recipe)["parameters"] for arm in experiment.arms]
        assert max(costs) / min(costs) <= 1 + 2 * CLOSE


def test_the_networks_of_the_papers_tables_are_the_published_ones() -> None:
    arms = find_experiment("table1")(PAPER).arms
    found = {arm.recipe.model: PAPER.cost(arm.recipe)["parameters"] for arm in arms}
    assert found == {model: CATALOGUE[model].parameters for model in found}
    assert {arm.paper["top1"] for arm in arms} == {0.790, 0.782, 0.770, 0.715}
    table3 = find_experiment("table3")(MINI)
    assert table3.setting
    assert [table3.setting.cost(arm.recipe)["parameters"] for arm in table3.arms] == [23_626_728, 22_855_952]


def test_at_the_papers_scale_table_2_is_the_papers_recipe() -> None:
    jft = Setting(SCALES["paper"], replace(IMAGENET, num_classes=17_000, several=True))
    experiment = find_experiment("table2")(jft)
    assert all(arm.recipe.name == "xception-jft" for arm in experiment.arms)
    widths = [arm.recipe.model_args.get("fully_connected", ()) for arm in experiment.arms]
    assert [*map(tuple, widths)] == [(), (), (4096, 4096), (4096, 4096)]


def test_one_arm_makes_its_updates_on_made_up_images() -> None:
    def alone(setting: Setting) -> Experiment:
        whole = find_experiment("activation")(setting)
        return replace(whole, arms=whole.arms[:1])

    class Quiet:
        def now(self, text: str) -> None: ...

    found = rehearsed(alone, MINI, Share(), Quiet())
    (arm,) = found.arms
    assert (arm.parameters, arm.updates) == (166_626, 1406)
    assert found.seconds(3) == pytest.approx(3 * 1406 * arm.update)


def test_equal_arms_of_several_experiments_are_one_run(tmp_path) -> None:
    facts = {
        "fingerprint": "f",
        "channels": 1,
        "traits": vars(FASHION_MNIST),
        "environment": {"threads": "1"},
    }
    asked = Asked("order", "mini", "fashion-mnist", seeds=2, **facts)
    of = {name: planned(find_experiment(name)(MINI), asked, tmp_path) for name in ("order", "activation")}
    shared = {run.out for run in of["order"]} & {run.out for run in of["activation"]}
    assert len(shared) == 2
    other = replace(asked, environment={"threads": "2"})
    assert not {run.out for run in planned(find_experiment("order")(MINI), other, tmp_path)} & shared


def test_workers_alone_are_what_arms_of_sync_async_differ_in(tmp_path) -> None:
    facts = {"fingerprint": "f", "channels": 1, "traits": vars(FASHION_MNIST), "environment": {}}
    experiment = find_experiment("sync-async")(MINI)
    runs = planned(experiment, Asked("sync-async", "mini", "fashion-mnist", seeds=2, **facts), tmp_path)
    assert len({run.out for run in runs}) == len(runs) == 2 * len(experiment.arms)
    assert {run.simulate.seed for run in runs if run.simulate} == {0, 1}
    assert {arm.recipe.optimizer.momentum for arm in experiment.arms} == {0.0}


def test_times_stand_beside_the_papers() -> None:
    experiment = find_experiment("table3")(MINI)
    asked = Asked("table3", "mini", "digits", "f", 1, vars(FASHION_MNIST), 1, {})
    times = {"Inception V3": (0.4, 0.5, 0.6), "Xception": (0.5, 0.625, 0.75)}
    costs = {arm.name: {"parameters": 1, "macs": 1} for arm in experiment.arms}
    results = Results(experiment, asked, [], costs, Taken(8, 2, "float32", {"training": times}))
    (table,) = speed_tables(results)
    assert [row["paper"] for row in table["rows"]] == [31, 28]
    assert table["rows"][1]["milliseconds"] == pytest.approx(1000 * 0.625 / 8)
    assert table["rows"][1]["times"] == "0.80 (0.80 to 0.80)"
    assert results.findings() == []


def test_the_pages_command_reads_the_manifest_in_the_same_way(tmp_path: Path) -> None:
    columns = Columns(
        label_column="a tag", min_count=3, aliases=(("a", "b"),), ignore=("-x", "y z"), absent="unknown"
    )
    asked = Asked("order", "mini", "set.csv", "f", 1, vars(FASHION_MNIST), 2, {}, columns.to_json())
    results = Results(find_experiment("order")(MINI), asked, [], {}, None)
    text = _again(results, place_of(tmp_path))
    _, bound, _ = app.parse_args(shlex.split(text, comments=True)[1:])
    assert bound.arguments["manifest"].columns() == replace(columns, aliases=())
    assert bound.arguments["seeds"] == 2
    assert text.endswith("  # --aliases: those of experiment.json")
    recipes = {"arms": {"a": {"recipe": {}}, "b": {"recipe": {}}}, "match": ""}
    call = _again(replace(results, asked=replace(asked, arms=recipes)), place_of(tmp_path))
    assert call.endswith("seeds=2, columns=columns)  # arms and columns: those of experiment.json")


def test_label_sets_where_there_is_one_label_are_refused() -> None:
    asked = Asked("table2", "mini", "digits", "f", 1, vars(FASHION_MNIST), 1, {})
    experiment = replace(find_experiment("activation")(MINI), needs="several labels")
    with pytest.raises(
        DepthwiseError, match="table2 is about images of several labels, and those of digits have one"
    ):
        _check(experiment, asked)
    with pytest.raises(UsageError, match="unknown experiment 'resdual'"):
        find_experiment("resdual")
