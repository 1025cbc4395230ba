"""Arms come to one budget, at every scale."""

import pytest

from depthwise.analysis.match import Match
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


def test_what_no_width_reaches_is_said() -> None:
    with pytest.raises(DepthwiseError, match="give a larger budget or take a smaller network"):
        SETTING.matched(SETTING.network("resnet152"), "parameters", 1000)
    with pytest.raises(UsageError, match="unknown scale 'mni': use one of mini"):
        find_scale("mni")
