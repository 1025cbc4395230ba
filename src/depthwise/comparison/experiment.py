"""An experiment as a value: the arms that are compared, what is claimed of them, what is measured and drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from depthwise.comparison.claims import Claim
from depthwise.comparison.outcome import TOP1, Metric
from depthwise.comparison.setting import Setting
from depthwise.train.asynchronous.simulation import Simulation
from depthwise.train.recipe import Recipe

Axis = Literal["updates", "samples", "seconds", "time", "macs"]


@dataclass(frozen=True)
class Arm:
    """One of the things compared: a recipe, of which each seed makes a run.

    simulate: what makes it an asynchronous run, see `train/asynchronous`; speeds are drawn by the run's seed.
    group: arms of one group are drawn as one line, in the order of `place`, a number on the figure's axis.
    paper: what was published of it, by a metric's key. note: what a reader should know.
    """

    name: str
    recipe: Recipe
    group: str = ""
    place: float = 0.0
    paper: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    simulate: Simulation | None = None


@dataclass(frozen=True)
class Curves:
    """A metric of the evaluations on the way against updates, images, seconds, a simulation's time, or multiply-adds
    spent; a line an arm, the mean over seeds, in the range of them. key: of evaluation lines of the weights that the
    bundle keeps."""

    title: str
    x: Axis = "updates"
    key: str = "top1"
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dots:
    """A metric of each arm: a dot a seed, and the mean."""

    title: str
    metric: Metric = TOP1
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lines:
    """A metric against the arms' `place`, a line a group. log: the axis shows powers of two. x: what it is called."""

    title: str
    x: str
    metric: Metric = TOP1
    log: bool = False


@dataclass(frozen=True)
class Costs:
    """A metric against what each arm costs: "parameters", "macs", or "milliseconds" of an image as measured here."""

    title: str
    x: Literal["parameters", "macs", "milliseconds"]
    metric: Metric = TOP1


Figure = Curves | Dots | Lines | Costs


@dataclass(frozen=True)
class Speed:
    """Times to be taken of the arms in turns, on this machine: milliseconds an image of a training step, and of an
    answer, in batches of `batch`."""

    batch: int = 8
    rounds: int = 11
    training: bool = True
    inference: bool = True


@dataclass(frozen=True)
class Experiment:
    """What is to be run and how it is judged; the rule of each claim is fixed before anything has run.

    question: in a sentence. source: where the paper has it. arms: the first is what others are measured against.
    matched: what arms of a group have in common, "parameters", "macs" or "milliseconds", or that of each group; ""
    where they differ in cost.
    trains: False where nothing is trained, and only `speed` taken. metrics: the first is what the page is about.
    needs: how many labels an image must have. setting: what networks are built for where the data do not decide.
    """

    question: str
    source: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure, ...] = ()
    metrics: tuple[Metric, ...] = (TOP1,)
    matched: str | Mapping[str, str] = ""
    speed: Speed | None = None
    trains: bool = True
    needs: Literal["any", "one label", "several labels"] = "any"
    setting: Setting | None = None
    notes: tuple[str, ...] = ()

    def budget_of(self, arm: Arm) -> str:
        """What the arm has in common with others of its group."""
        return self.matched if isinstance(self.matched, str) else self.matched.get(arm.group, "")

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)
