"""What a rehearsal does of large images: few at a time, and says so."""

from dataclasses import replace

import pytest

from depthwise.comparison.experiment import Arm, Experiment
from depthwise.comparison.jobs import Share
from depthwise.comparison.rehearsal import rehearsed
from depthwise.comparison.setting import FASHION_MNIST, SCALES, Scale, Setting
from depthwise.data.transform import Preprocess
from depthwise.recipes import Traits
from depthwise.train.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


class Quiet:
    def now(self, text: str) -> None: ...


def setting_of(side: int) -> Setting:
    """The scale mini, a narrower network, and images of so many pixels a side."""

    def recipe(data: Traits) -> Recipe:
        mini = SCALES["mini"].recipe(data)
        arguments = {"width": 0.02, "entry": (32,), "middle": (), "exit": (32,), "dropout": 0.0}
        return replace(mini, model_args=arguments, preprocess=Preprocess((side, side)), batch_size=40)

    return Setting(Scale("paper", recipe, FASHION_MNIST), FASHION_MNIST, channels=1)


@pytest.mark.parametrize(("side", "timed", "rough"), [(32, 40, 0), (150, 7, 7), (430, 2, 2)])
def test_large_images_are_timed_few_at_a_time(side: int, timed: int, rough: int) -> None:
    given = []

    def build(setting: Setting) -> Experiment:
        given.append(setting.rough)
        setting.kept["width"] = 0.5
        arms = (Arm("a", setting.recipe), Arm("b", setting.recipe))
        return Experiment("What?", "nowhere", arms)

    setting = setting_of(side)
    found = rehearsed(build, setting, Share(device="cpu"), Quiet())
    assert given == [rough]
    assert {(arm.images, arm.timed, arm.updates) for arm in found.arms} == {(40, timed, 180_000 // 40)}
    assert found.arms[0].update == found.arms[1].update > 0  # one recipe is timed once
    assert bool(setting.kept) == (not rough)  # what is roughly known is not kept
    assert found.to_json(3)["arms"][0]["timed"] == timed
