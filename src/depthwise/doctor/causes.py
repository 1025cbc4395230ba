"""The causes that the doctor knows, the one table of them, and which of them a run has.

A cause is added by a function in `evidence.py` and an entry here, in the order in which they are asked: what explains
others first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from depthwise.doctor import evidence
from depthwise.doctor.case import Case
from depthwise.doctor.evidence import USUAL
from depthwise.words import quote_path


class Kind(Enum):
    """SETTING: a fact of the set-up, known at once, that explains whatever else is seen. LEARNING: why the run does not
    learn, or learns something else; the first that fits is named. RESULT: stands on its own."""

    SETTING = "setting"
    LEARNING = "learning"
    RESULT = "result"


@dataclass(frozen=True)
class Cause:
    """name: for programs; title: for people. evidence: what speaks for it, with numbers, or "" if nothing does. remedy:
    what to try."""

    name: str
    title: str
    kind: Kind
    evidence: Callable[[Case], str]
    remedy: Callable[[Case], str]


@dataclass(frozen=True)
class Finding:
    """A cause that was found in a run, by its name: what speaks for it, and what to try."""

    cause: str
    title: str
    evidence: str
    remedy: str

    @property
    def sentence(self) -> str:
        """As `train` says it."""
        return f"{self.evidence}: {self.remedy}"


def lower_rate(case: Case) -> str:
    lr = case.recipe["optimizer"]["lr"]
    clip = "" if case.recipe["clip_norm"] else ", a warm-up or --set clip_norm=1"
    return f"train anew with --set optimizer.lr={lr / 10:g} or less{clip}"


def higher_rate(case: Case) -> str:
    lr = case.recipe["optimizer"]["lr"]
    if max(line["lr"] for line in case.trained) < lr / 2:
        return "shorten the warm-up, as with --set schedule.warmup=1"
    times = USUAL / max(*case.signals("moved", 1), USUAL * 1e-9)
    most = 0.1 if case.recipe["optimizer"]["kind"] == "sgd" else 0.001
    higher = f"--set optimizer.lr={min(lr * times, most):.0g}"
    return f"train anew with a higher rate, about {higher}, or measure one with {_again(case)} --lr-range"


def unknown(case: Case) -> str:
    return f"look at images with their labels, and see what the network can do: {_again(case)} --overfit --lr-range"


def _again(case: Case) -> str:
    return f"depthwise doctor {quote_path(case.root)}"


def always(text: str) -> Callable[[Case], str]:
    """What to try whatever the run is."""
    return lambda _: text


CAUSES = (
    Cause(
        "nothing-trained",
        "nothing is trained",
        Kind.SETTING,
        evidence.nothing_trained,
        always("give a learning rate, as --set optimizer.lr=0.1, and parameters that require a gradient"),
    ),
    Cause(
        "one-class",
        "there is only one class",
        Kind.SETTING,
        evidence.one_class,
        always("add images of another class, or see with depthwise data check how labels are read"),
    ),
    Cause(
        "loss-weights",
        "a loss weight is zero",
        Kind.SETTING,
        evidence.loss_weights,
        always(
            "give a weight between 0 and 1, as the default --set loss.alpha=0.25, or --set loss=cross-entropy"
        ),
    ),
    Cause(
        "constant-inputs",
        "all images are equal",
        Kind.SETTING,
        evidence.constant_inputs,
        always("look at them with depthwise data stats --sheet, and set white_level if they have 16 bits"),
    ),
    Cause(
        "unnormalised-inputs",
        "the inputs are not normalised",
        Kind.SETTING,
        evidence.unnormalised_inputs,
        always("give mean and std in units of the full range, 0 to 1, or leave both out"),
    ),
    Cause(
        "rate-too-high", "the learning rate is too high", Kind.LEARNING, evidence.rate_too_high, lower_rate
    ),
    Cause(
        "dead-relus",
        "ReLUs are dead",
        Kind.LEARNING,
        evidence.dead_relus,
        always("start from other weights, with biases near 0, or take a lower optimizer.lr and a warm-up"),
    ),
    Cause(
        "lost-signal",
        "the network loses the signal",
        Kind.LEARNING,
        evidence.lost_signal,
        always("add batch norm or residual connections, initialise by He's rule, or use fewer layers"),
    ),
    Cause("rate-too-low", "the learning rate is too low", Kind.LEARNING, evidence.rate_too_low, higher_rate),
    Cause(
        "norm-statistics",
        "batch norm evaluates with other statistics than it trains with",
        Kind.LEARNING,
        evidence.norm_statistics,
        always("train anew with --set norm_momentum=0.1, or with larger batches"),
    ),
    Cause(
        "other-val",
        "the val part has other labels than the training part",
        Kind.LEARNING,
        evidence.other_val,
        always("compare the labels of the two parts, with depthwise data check and data stats --sheet"),
    ),
    Cause(
        "shuffled-labels",
        "the labels look shuffled",
        Kind.LEARNING,
        evidence.shuffled_labels,
        always(
            "look at images with their labels, with depthwise data stats --sheet, and at how labels are read"
        ),
    ),
    Cause(
        "chance",
        "the run stays at chance",
        Kind.LEARNING,
        evidence.chance,
        unknown,
    ),
    Cause(
        "slow-average",
        "the average follows too slowly",
        Kind.RESULT,
        evidence.slow_average,
        always("train longer, or with --set averaging=0"),
    ),
)


def diagnose(case: Case) -> list[Finding]:
    """What is wrong with a run, the likeliest first; nothing if nothing seems to be."""
    found: dict[Kind, list[Finding]] = {kind: [] for kind in Kind}
    for cause in CAUSES:
        if said := cause.evidence(case):
            found[cause.kind].append(Finding(cause.name, cause.title, said, cause.remedy(case)))
    return [*(found[Kind.SETTING] or found[Kind.LEARNING][:1]), *found[Kind.RESULT]]
