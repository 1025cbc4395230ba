"""Arms come to one budget, at every scale."""

from dataclasses import replace

import pytest

from depthwise.analysis.match import Match, NoWidthError
from depthwise.comparison.budgets import at_each, best_at_each
from depthwise.comparison.setting import CLOSE, SCALES, Setting, find_scale
from depthwise.errors import DepthwiseError, UsageError

SETTING = Setting(SCALES["mini"], SCALES["mini"].data, channels=1)


@pytest.mark.parametrize("name", ["separable_vgg", "mobilenet_v2"])
@pytest.mark.parametrize("by", ["parameters", "macs"])
def test_a_network_comes_within_a_hundredth_of_the_budget(name: str, by: str) -> None:
    budget = SETTING.cost(SETTING.recipe)[by]
    found = SETTING.matched(SETTING.network(name), by, budget)
    assert 1 - CLOSE <= SETTING.cost(found)[by] / budget <= 1


def test_only_the_network_changes() -> None:
    other = SETTING.network("mobilenet_v1")
    assert (other.model, other.model_args) == ("mobilenet_v1", {"stem": "small", "dropout": 0.0})
    for name, value in SETTING.recipe.to_json().items():
        assert name in ("model", "model_args") or other.to_json()[name] == value


def test_a_measured_width_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search itself is tested with `match`."""
    found = iter((Match(0.25, 1, 1, 4.0), Match(0.5, 1, 1, 4.0)))
    monkeypatch.setattr("depthwise.comparison.setting.match", lambda *_, **__: next(found))
    setting = Setting(SCALES["mini"], SCALES["mini"].data, channels=1)
    for _ in range(2):
        assert setting.matched(setting.recipe, "milliseconds", 4.0).model_args["width"] == 0.25
    assert setting.matched(setting.recipe, "milliseconds", 8.0).model_args["width"] == 0.5


def test_rough_widths_come_from_few_images_and_few_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def found(*_: object, **wanted: object) -> Match:
        asked.append((wanted["batch"], wanted["refinements"]))
        return Match(0.25, 1, 1, 4.0)

    monkeypatch.setattr("depthwise.comparison.setting.match", found)
    for rough in (0, 2):
        setting = Setting(SCALES["paper"], SCALES["paper"].data, rough=rough)
        setting.matched(setting.recipe, "milliseconds", 4.0)
    assert asked == [(8, 2), (2, 0)]


def test_what_no_width_reaches_is_said() -> None:
    with pytest.raises(DepthwiseError, match="give a larger budget or take a smaller network"):
        SETTING.matched(SETTING.network("resnet50"), "parameters", 1000)
    with pytest.raises(UsageError, match="unknown scale 'mni': use one of mini"):
        find_scale("mni")


def test_what_no_width_brings_to_a_budget_has_no_arm_there_and_again_none() -> None:
    setting = Setting(SCALES["mini"], SCALES["mini"].data, channels=1)
    base = replace(setting.recipe, model_args={**setting.recipe.model_args, "width": 1 / 64})

    def brought(name: str, by, budget: float):
        if by == "milliseconds" or name == "xception":
            return base
        return setting.matched(setting.network(name), by, budget)

    setting.kept[f"milliseconds of {setting._called(base)}"] = 1.0
    for _ in range(2):  # again by what was kept, as when an experiment goes on
        arms, notes = at_each(setting, base, ("xception", "resnet50"), brought)
        found = [arm.name for arm in arms if arm.name.startswith("resnet50")]
        assert found == ["resnet50, equal multiply-adds", "resnet50, equal time"]
        assert notes[1] == "resnet50 is left out at equal parameters: no width brings it there"
    claims = best_at_each(arms, "xception", "At {} it is.", setting.metric)
    assert [len(claim.arms) for claim in claims] == [1, 2, 2]
    with pytest.raises(NoWidthError):
        brought("resnet50", "parameters", setting.cost(base)["parameters"])


def test_a_shortened_recipe_has_its_schedule_in_proportion() -> None:
    whole, part = SETTING.recipe, SETTING.shortened(3)
    assert (part.samples, part.schedule.warmup) == (60_000, whole.schedule.warmup / 3)
    assert part.eval_every == part.samples == 2 * SETTING.shortened(3, evaluations=2).eval_every
    night = Setting(SCALES["small"], SCALES["small"].data, channels=1)
    assert night.shortened(4).epochs == night.shortened(4).eval_every == night.recipe.epochs / 4
    paper = Setting(SCALES["paper"], SCALES["paper"].data)
    assert paper.shortened(3) == paper.recipe
