"""Every number that follows from how a network ranks the labels of an image that may have any number of them.

MAP@100 is what the Xception paper reports of JFT (section 4.2). Of an image with p labels, average precision at k is
the sum over the ranks i up to k that hold one of its labels of (labels up to i) / i, divided by min(k, p) as
TensorFlow's average_precision_at_k does, or by the labels found up to k as retrieval metrics do; the mean is over
images with a label. Of labels with the same score the one with the lower number ranks first. The paper gives neither
its classes' weights nor its formula, so no number here is on its scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from depthwise.data.targets import denials, memberships
from depthwise.errors import DepthwiseError
from depthwise.evaluate.meters import Headline, finite
from depthwise.evaluate.rankings import Cuts, Rankings

K = 100
AT = (1, 5, 10)
"""Ranks at which precision and recall are counted."""

MOST_SAID = 100
"""Labels of an image that are kept of those that reach their thresholds."""

MOST_KEPT = 200
"""Of the surest wrong labels, and of the missed ones that were thought least likely."""

CURVE_POINTS, MOST_CURVES = 100, 12


class Doubt(NamedTuple):
    """A label that the network was wrong about, its probability, and the image's place in the split."""

    place: int
    label: int
    probability: float


@dataclass(frozen=True)
class PerLabel:
    """Of each label float64 [K]: the images that have it, average precision, the threshold (a probability) with the
    highest F1 on these images, and that F1; at the thresholds that were given precision, recall and F1.

    Average precision and the best threshold are nan where no image has the label, a ratio without a denominator is 0.
    """

    support: Tensor
    average_precision: Tensor
    best_threshold: Tensor
    best_f1: Tensor
    precision: Tensor
    recall: Tensor
    f1: Tensor


@dataclass(frozen=True, eq=False)
class LabelEvaluation:
    """What a network said about n images that have any of K labels each.

    loss: sigmoid cross-entropy, summed over labels, the mean over images, in nats. num_unlabelled: images without a
    label, which all numbers by image leave out. map_at_100: see this module; map_of_found: by the labels found up to
    100 instead. macro_ap: the mean over the labels that any image has; micro_ap: of all pairs of an image and a label.
    precision_at, recall_at: by AT. thresholds: float32 [K], probabilities from which on a label is said.
    """

    num_classes: int
    num_images: int
    num_unlabelled: int
    loss: float
    map_at_100: float
    map_of_found: float
    macro_ap: float
    micro_ap: float
    precision_at: tuple[float, ...]
    recall_at: tuple[float, ...]
    thresholds: Tensor
    per_label: PerLabel
    micro_f1: float
    curves: dict[
        int, list[tuple[float, float]]
    ]  # (recall, precision) of the most frequent labels; -1: of all pairs
    indices: Tensor  # int64 [n], places in the split
    first: Tensor  # int64 [n], the likeliest label
    said: Tensor  # int32 [n, S], labels that reach their thresholds, the likeliest first; filled up with -1
    wrong: list[Doubt]  # the surest first
    missed: list[Doubt]  # the least likely first

    headline: ClassVar[Headline] = Headline("map_at_100", "MAP@100", "MAP@100 is {value} on {images}")

    @property
    def macro_f1(self) -> float:
        """At the thresholds that were given, the mean over the labels that any image has."""
        present = self.per_label.support > 0
        return float(self.per_label.f1[present].sum() / max(1, int(present.sum())))

    @property
    def numbers(self) -> dict[str, float | None]:
        """What a line of metrics says."""
        return {
            "loss": self.loss,
            "map_at_100": self.map_at_100,
            "macro_ap": self.macro_ap,
            "micro_f1": self.micro_f1,
        }

    def to_json(self) -> dict[str, Any]:
        """The numbers without the single images, as plain values; one that is not finite becomes None."""
        per_label = {
            name: [finite(value) for value in values.tolist()]
            for name, values in vars(self.per_label).items()
            if name != "support"
        }
        return {
            "images": self.num_images,
            "unlabelled": self.num_unlabelled,
            "loss": finite(self.loss),
            "map_at_100": self.map_at_100,
            "map_of_found": self.map_of_found,
            "macro_ap": self.macro_ap,
            "micro_ap": self.micro_ap,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "precision_at": dict(zip(map(str, AT), self.precision_at, strict=True)),
            "recall_at": dict(zip(map(str, AT), self.recall_at, strict=True)),
            "per_label": {"support": self.per_label.support.long().tolist(), **per_label},
        }


class _Counted(NamedTuple):
    """A batch's images: int64 [N] places and numbers of labels, float64 [N] numbers, int64 [N] the likeliest label."""

    indices: Tensor
    num_labels: Tensor
    perfect: Tensor  # what a perfect ranking gains
    losses: Tensor
    precision: Tensor  # average precision at K, by min(K, labels)
    of_found: Tensor  # by the labels found
    hits_at: Tensor  # int64 [N, len(AT)]
    first: Tensor


@dataclass(eq=False)
class LabelMeters:
    """Meters of logits [N, K] for images whose labels are rows of class numbers, see `data/targets.py`.

    thresholds: float32 [K], probabilities. absent_is_unknown: a label that a row does not name was not looked for, so
    it is in no ranking and no number. A class number of K or more is a label that the network cannot know: a miss.
    weights: float64 [K], of each label in MAP@100, see `average_precision_at`; a miss that is no class weighs 1 without
    them and nothing with them.
    """

    num_classes: int
    thresholds: Tensor
    absent_is_unknown: bool = False
    weights: Tensor | None = None
    _parts: list[_Counted] = field(default_factory=list)
    _said: list[Tensor] = field(default_factory=list)
    _wrong: list[Doubt] = field(default_factory=list)
    _missed: list[Doubt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rankings = Rankings(self.num_classes)
        self._at_thresholds = torch.zeros(3, self.num_classes, dtype=torch.int64)  # hits, said, labelled

    @property
    def num_images(self) -> int:
        """How many images have been counted."""
        return sum(len(part.indices) for part in self._parts)

    def update(self, output: Any, targets: Tensor, indices: Tensor) -> None:
        """Count a batch; scores are compared in float32.

        Raises DepthwiseError if the scores are not [N, num_classes].
        """
        _check(output, targets, self.num_classes)
        logits, targets, indices = output.float().cpu(), targets.cpu(), indices.cpu()
        truth = truth_of(targets, self.num_classes, self.absent_is_unknown)
        scores = logits.masked_fill(logits.isnan(), torch.inf) + 0.0  # no -0, which is no lower than 0
        self._rankings.update(scores, truth)
        ranked = scores.masked_fill(truth < 0, -torch.inf)
        self._parts.append(self._counted(ranked, truth, targets, indices, _losses(logits, truth)))
        self._count_said(logits.sigmoid(), truth, indices)

    def merge(self, other: Self) -> None:
        """Count what `other` has counted."""
        self._parts += other._parts
        self._said += other._said
        self._rankings.merge(other._rankings)
        self._at_thresholds += other._at_thresholds
        self._keep(other._wrong, other._missed)

    def compute(self) -> LabelEvaluation:
        """The evaluation. Raises DepthwiseError if no image has a label."""
        whole = _Counted(*(torch.cat(values) for values in zip(*self._parts, strict=True)))
        width = max(part.shape[1] for part in self._said)
        said = torch.cat([F.pad(part, (0, width - part.shape[1]), value=-1) for part in self._said])
        order = whole.indices.argsort(stable=True)
        counted, said = _Counted(*(values[order] for values in whole)), said[order]
        labelled = counted.num_labels > 0
        if not labelled.any():
            raise DepthwiseError(
                "no image has a label: measure on images that were labelled, or with the network's own labels"
            )
        num_labels, weighed = counted.num_labels[labelled], counted.perfect > 0
        if not weighed.any():
            raise DepthwiseError(
                "no image has a label that weighs anything: give weights to labels that are there"
            )
        hits_at = counted.hits_at[labelled].double()
        cuts, together = self._rankings.cuts(), self._rankings.together()
        per_label = self._per_label(cuts)
        hits, num_said, support = self._at_thresholds.sum(1).tolist()
        return LabelEvaluation(
            num_classes=self.num_classes,
            num_images=len(counted.indices),
            num_unlabelled=int((~labelled).sum()),
            loss=float(counted.losses.mean()),
            map_at_100=float(counted.precision[weighed].mean()),
            map_of_found=float(counted.of_found[weighed].mean()),
            macro_ap=float(per_label.average_precision.nan_to_num().sum() / max(1, sum(map(bool, cuts)))),
            micro_ap=together.average_precision if together else 0.0,
            precision_at=tuple((hits_at / torch.tensor(AT)).mean(0).tolist()),
            recall_at=tuple((hits_at / num_labels[:, None]).mean(0).tolist()),
            thresholds=self.thresholds,
            per_label=per_label,
            micro_f1=2 * hits / max(1, num_said + support),
            curves=_curves(cuts, together, per_label.support),
            indices=counted.indices,
            first=counted.first,
            said=said,
            wrong=self._wrong,
            missed=self._missed,
        )

    def _counted(
        self, ranked: Tensor, truth: Tensor, targets: Tensor, indices: Tensor, losses: Tensor
    ) -> _Counted:
        top = best(ranked, min(K, self.num_classes))
        hits = truth.gather(1, top) == 1
        found = hits.cumsum(1)
        rows = targets if targets.ndim > 1 else targets[:, None]
        perfect, weights = weighed(rows, top, self.num_classes, self.weights)
        places = torch.tensor([min(k, top.shape[1]) - 1 for k in AT])
        return _Counted(
            indices,
            (rows >= 0).sum(1),
            perfect,
            losses,
            *average_precision_at(hits, perfect, weights),
            found[:, places],
            top[:, 0],
        )

    def _count_said(self, probabilities: Tensor, truth: Tensor, indices: Tensor) -> None:
        known = truth >= 0
        said = (probabilities >= self.thresholds) & known
        self._at_thresholds += torch.stack([(said & (truth == 1)).sum(0), said.sum(0), (truth == 1).sum(0)])
        most = min(MOST_SAID, max(1, int(said.sum(1).max())), self.num_classes)
        top = best(probabilities.masked_fill(~said, -1), most)
        self._said.append(torch.where(said.gather(1, top), top, -1).int())
        wrong = probabilities.masked_fill((truth != 0) | ~said, -torch.inf)
        missed = (-probabilities).masked_fill((truth != 1) | said, -torch.inf)
        self._keep(_surest(wrong, probabilities, indices), _surest(missed, probabilities, indices))

    def _keep(self, wrong: Sequence[Doubt], missed: Sequence[Doubt]) -> None:
        # By image and label, too: so the same are kept in whatever batches and parts they came.
        self._wrong = sorted([*self._wrong, *wrong], key=lambda d: (-d.probability, d[:2]))[:MOST_KEPT]
        self._missed = sorted([*self._missed, *missed], key=lambda d: (d.probability, d[:2]))[:MOST_KEPT]

    def _per_label(self, cuts: Sequence[Cuts | None]) -> PerLabel:
        hits, said, support = self._at_thresholds.double()
        nothing = (float("nan"), float("nan"))
        best_cuts = torch.tensor([c.best if c else nothing for c in cuts], dtype=torch.float64)
        return PerLabel(
            support=support,
            average_precision=torch.tensor(
                [c.average_precision if c else nothing[0] for c in cuts], dtype=torch.float64
            ),
            best_threshold=best_cuts[:, 1].sigmoid(),
            best_f1=best_cuts[:, 0],
            precision=hits / said.clamp(min=1),
            recall=hits / support.clamp(min=1),
            f1=2 * hits / (said + support).clamp(min=1),
        )


def weighed(rows: Tensor, top: Tensor, num_classes: int, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a perfect ranking gains, float64 [N], and the weights of the labels at each rank, float64 [N, R].

    rows: int64 [N, P], the images' labels; top: int64 [N, R], the labels ranked first; weights: float64 [num_classes].
    """
    if weights is None:
        return (rows >= 0).sum(1).clamp(max=K).double(), torch.ones(top.shape, dtype=torch.float64)
    known = (rows >= 0) & (rows < num_classes)
    own = torch.where(known, weights[rows.clamp(0, num_classes - 1)], 0.0)
    return own.sort(1, descending=True).values[:, :K].sum(1), weights[top]


def average_precision_at(hits: Tensor, perfect: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """float64 [N] each: average precision at R, by what a perfect ranking gains, and by what was found; 0 if nothing.

    hits: bool [N, R], whether the label at each rank is one of the image's. weights: float64 [N, R], of the labels at
    these ranks; what a hit gains is its weight times the precision up to its rank. perfect: float64 [N], the sum of the
    weights of the image's labels, of the R heaviest if there are more: min(R, labels) where all weigh 1.
    """
    found, weighed = hits.double().cumsum(1), weights * hits
    gained = (weighed * found / torch.arange(1, hits.shape[1] + 1)).sum(1)
    of_found = weighed.sum(1)
    return gained / perfect.where(perfect > 0, torch.inf), gained / of_found.where(of_found > 0, torch.inf)


def truth_of(targets: Tensor, num_classes: int, absent_is_unknown: bool) -> Tensor:
    """int8 [N, K]: 1 for a label that the image has, 0 for one that it has not, -1 where that is unknown."""
    truth = torch.full((len(targets), num_classes), -1 if absent_is_unknown else 0, dtype=torch.int8)
    truth[denials(targets)] = 0
    images, labels = memberships(targets)
    known = labels < num_classes
    truth[images[known], labels[known]] = 1
    return truth


def best(scores: Tensor, k: int) -> Tensor:
    """int64 [N, k]: the classes with the highest `scores`, float32 [N, K], best first; of equals the lower number."""
    bits = scores.contiguous().view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as whole numbers that are in the scores' order
    num_classes = scores.shape[1]
    return (ordered.long() * num_classes - torch.arange(num_classes)).topk(k, sorted=True).indices


def _losses(logits: Tensor, truth: Tensor) -> Tensor:
    """float64 [N], in nats."""
    x = logits.double()
    own = F.softplus(x) - x * (truth == 1)
    return own.masked_fill(truth < 0, 0.0).sum(1)


def _surest(doubts: Tensor, probabilities: Tensor, indices: Tensor) -> list[Doubt]:
    """The highest of `doubts`, float32 [N, K], that are finite; of equals the first."""
    places = best(doubts.reshape(1, -1), min(MOST_KEPT, doubts.numel()))[0]
    places = places[doubts.flatten()[places].isfinite()]
    images, labels = places // doubts.shape[1], places % doubts.shape[1]
    odds = probabilities.flatten()[places]
    return [
        Doubt(*doubt) for doubt in zip(indices[images].tolist(), labels.tolist(), odds.tolist(), strict=True)
    ]


def _curves(
    cuts: Sequence[Cuts | None], together: Cuts | None, support: Tensor
) -> dict[int, list[tuple[float, float]]]:
    curves = {-1: together.curve(CURVE_POINTS)} if together else {}
    for k in support.argsort(descending=True, stable=True)[:MOST_CURVES].tolist():
        if found := cuts[k]:
            curves[k] = found.curve(CURVE_POINTS)
    return curves


def _check(scores: Any, targets: Tensor, num_classes: int) -> None:
    if not isinstance(scores, Tensor) or scores.shape != (len(targets), num_classes):
        got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise DepthwiseError(
            f"the network answers {got} where {[len(targets), num_classes]} scores are due: "
            f"evaluate a network with {num_classes} classes, one score each"
        )
