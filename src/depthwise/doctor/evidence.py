"""What speaks for each cause in a run: functions of a Case that give a phrase with numbers, or "" if nothing does."""

import math
from collections.abc import Mapping
from pathlib import Path

from depthwise.doctor.case import Case, Line
from depthwise.evaluate.meters import Headline

USUAL = 1e-3
"""By this share of their norm updates move the weights of networks that learn well, to within a factor of ten."""

FAR_ABOVE, HOPELESS, NEAR_GUESSING = 1.2, 5.0, 1.1
"""Times the loss of guessing: a run far above it is driven there, hopelessly so that nobody need wait; one near it has
learned what guessing takes."""

ALIKE, APART = 1e-3, 0.05
"""Features that differ between images by less than the first share of their size tell nothing; healthy networks start
with more than the second."""

DEAD = 0.9
"""Where more of the ReLUs of a part of the network are 0 for all images, hardly anything gets through."""

EXTREME, FLAT, OFF = 20.0, 0.02, 50.0
"""Inputs with a mean or deviation beyond the first, a deviation below the second, or a mean of so many deviations are
not normalised. Batch norm makes up for a lot, so only what is far out is named."""


def nothing_trained(case: Case) -> str:
    """The learning rate is 0, or next to no weight is trained, though the recipe does not freeze them."""
    trained = case.signal("trained", 0)
    if case.recipe["optimizer"]["lr"] == 0:
        return "the learning rate is 0, so no update changes a weight"
    if trained is None or trained >= 0.05 or case.recipe["freeze"]:
        return ""
    return f"{trained:.1%} of the network's weights are trained; the others have requires_grad=False"


def one_class(case: Case) -> str:
    """All training images are of one class, or all have the same labels."""
    if case.task == "single-label" and sum(count > 0 for count in case.counts) == 1:
        return f"all {case.num_images:,} training images are of one class, so there is nothing to tell apart"
    if case.task == "multi-label" and case.num_images and {*case.counts} <= {0, case.num_images}:
        return (
            f"all {case.num_images:,} training images have the same labels, so there is nothing to tell apart"
        )
    return ""


def loss_weights(case: Case) -> str:
    """The loss has no weight at all, or none for labels that are present, or that are absent."""
    loss = case.recipe["loss"]
    if loss["kind"] == "focal" and loss["alpha"] == 0:
        return "loss.alpha=0 gives labels that are present no weight, so the network learns to name none"
    if loss["kind"] == "focal" and loss["alpha"] == 1:
        return "loss.alpha=1 gives labels that are absent no weight, so the network learns to name all"
    if loss["kind"] == "asymmetric" and loss["clip"] >= 0.9:
        return f"loss.clip={loss['clip']:g} gives labels that are absent no weight, so the network learns to name all"
    if case.trained and case.trained[0]["loss"] == 0 and case.signal("guess", 0) == 0:
        return "the loss is exactly 0 from the first update on, so nothing in it has a weight"
    return ""


def constant_inputs(case: Case) -> str:
    """All images are the same."""
    images, difference = case.signal("images", 0), case.signal("input_difference", 0)
    if difference is None or not images or images < 4 or difference > 1e-6:
        return ""
    return f"the first {images:.0f} images are equal in every pixel as the network sees them"


def unnormalised_inputs(case: Case) -> str:
    """Pixels far from 0, or whose deviation is far from 1."""
    mean, deviation = case.signal("input_mean", 0), case.signal("input_std", 0)
    if mean is None or not deviation:
        return ""
    if abs(mean) < EXTREME and FLAT < deviation < EXTREME and abs(mean) < OFF * deviation:
        return ""
    given = (case.recipe["preprocess"][name] or (0.5,) for name in ("mean", "std"))
    by = " and ".join(
        f"preprocess.{name}={','.join(f'{value:g}' for value in values)}"
        for name, values in zip(("mean", "std"), given, strict=True)
    )
    return (
        f"the network's inputs have mean {mean:.3g} and standard deviation {deviation:.2g} by {by}, "
        f"and about 0 and 1 are usual"
    )


def rate_too_high(case: Case) -> str:
    """The loss is not finite, is driven above guessing, or updates wiped out what told images apart."""
    rate = f"learning rate {case.recipe['optimizer']['lr']:g}"
    if case.lost:
        return f"the loss is not finite after {case.lost:,} of {case.total_steps:,} updates with {rate}"
    if case.unmeasured:
        return (
            f"the loss of the {case.unmeasured['weights']} weights is not finite in evaluation after "
            f"{case.unmeasured['step']:,} of {case.total_steps:,} updates with {rate}"
        )
    if case.ended and case.times_guessing > HOPELESS and not case.soon_at_chance:
        return f"{case.standing()}; {rate} has driven it there"
    moved = max(case.signals("moved", 1), default=0.0)
    if not case.soon_at_chance or moved < USUAL / 2:
        return ""
    times = case.times_guessing
    updates = (
        f"an update with {rate} moved the weights by up to {max(case.signals('moved')):.2g} of their norm"
    )
    if times > (FAR_ABOVE if case.at_chance else HOPELESS):
        return f"{case.standing()}; {updates}, which drives the loss above guessing"
    if not case.at_chance:
        return ""
    (_, dead_first), (part, dead) = _deadest(case.readings[0]), _deadest(case.readings[-1])
    if dead_first < 0.5 and dead > DEAD:
        return f"{case.standing()}; {updates}, and since then {dead:.0%} of the ReLUs in '{part}' are 0 for all images"
    first, last = case.signal("spread", 0), case.signal("spread")
    if first is None or last is None or first < ALIKE or last > ALIKE / 10:
        return ""
    return (
        f"{case.standing()}; {updates}, and since then the features of all images are the same "
        f"(they differed by {first:.0%} of their size, now by {last:.1g})"
    )


def _deadest(reading: Line) -> tuple[str, float]:
    """The part of the network with the largest share of dead ReLUs, and this share."""
    parts = {
        name.partition(".")[2]: share
        for name, share in reading.items()
        if name.startswith("dead.") and share is not None
    }
    return max(parts.items(), key=lambda part: part[1], default=("", 0.0))


def dead_relus(case: Case) -> str:
    """Over 90% of the ReLUs of a part of the network are 0 for all images."""
    if not case.soon_at_chance or not case.readings:
        return ""
    part, dead = _deadest(case.readings[-1])
    if dead <= DEAD or not (case.at_chance or case.signal("dead") == 1):
        return ""
    return (
        f"{case.standing()}; {dead:.0%} of the ReLUs in '{part}' are 0 for all "
        f"{case.signal('images'):.0f} images looked at, {case.signal('dead'):.0%} in the whole network"
    )


def lost_signal(case: Case) -> str:
    """From the first update on the features are the same whatever the image."""
    first = case.signal("spread", 0)
    if not case.soon_at_chance or first is None or first > ALIKE:
        return ""
    if not case.at_chance and (case.signal("spread") or 0) > ALIKE / 1000:
        return ""
    norms, layers = case.signal("norms", 0) or 0, case.signal("layers", 0) or 0
    return (
        f"{case.standing()}; from the start the features of different images differ by {first:.1g} of their size, so "
        f"{layers:.0f} layers with {f'{norms:.0f} batch norms' if norms else 'no batch norm'} lose the signal"
    )


def rate_too_low(case: Case) -> str:
    """At chance, with updates that hardly move the weights."""
    moved = case.signals("moved", 1)
    if not case.soon_at_chance or not moved or max(moved) >= (USUAL / 2 if case.at_chance else USUAL / 1000):
        return ""
    lr, highest = case.recipe["optimizer"]["lr"], max(line["lr"] for line in case.trained)
    reached = f", of which the schedule has reached {highest:.2g}" if highest < lr / 2 else ""
    return (
        f"{case.standing()}; an update moves the weights by at most {max(moved):.1g} of their norm, where {USUAL:g} is "
        f"usual, with learning rate {lr:g}{reached}"
    )


def norm_statistics(case: Case) -> str:
    """Batch norms use other statistics in evaluation than in training, of the same images."""
    momentum = case.signal("momentum")
    if momentum is None or not case.settled:
        return ""
    # Statistics that will have followed by the end of the run are given time: early on they lag in any run.
    follow = momentum * case.total_steps >= 1
    if follow and (len(case.readings) < 3 or momentum * case.step < 50):
        return ""
    for reading in case.readings[-3:] if follow else case.readings[-1:]:
        better = (reading.get("accuracy") or 0) - (reading.get("eval_accuracy") or 0)
        if better < 0.4 or (reading.get("eval_loss") or math.inf) < 2 * (reading.get("loss") or 0):
            return ""
    return (
        f"{case.signal('accuracy'):.0%} of {case.signal('images'):.0f} training images are answered right with the "
        f"batch's statistics in batch norms and {case.signal('eval_accuracy'):.0%} with the running ones, which "
        f"evaluation uses (momentum {momentum:g}, {case.step:,} updates)"
    )


def _learned_by_heart(case: Case) -> bool:
    """Whether the training part is known in part, and the val part is answered by guessing in every evaluation."""
    if not case.settled or len(case.scores) < 3 or case.task != "single-label":
        return False
    loss, evaluated = case.signal("loss"), case.signal("eval_loss")
    if loss is None or evaluated is None or evaluated > max(1.5 * loss, loss + 0.7):
        return False  # batch norm's doing
    known = case.mean("accuracy") > max(
        case.base_rate + 0.15, (1 + case.base_rate) / 2 if case.base_rate > 0.5 else 0
    )
    return known and all(score <= case.base_rate + 0.05 for _, score in case.scores)


def other_val(case: Case) -> str:
    """Images that training sees for the first time are answered right, those of the val part are not."""
    late = [line for line in case.trained if 0.5 < line["epoch"] <= 1]
    if not late or not _learned_by_heart(case):
        return ""
    accuracy = sum(line["accuracy"] for line in late) / len(late)
    if not case.above_chance(accuracy - 0.05, case.num_images / 2):
        return ""
    return (
        f"in the first epoch {accuracy:.0%} of training images that were new were answered right, but at best "
        f"{max(score for _, score in case.scores):.1%} of those evaluated, where guessing gives {case.base_rate:.1%}"
    )


def shuffled_labels(case: Case) -> str:
    """A network that could learn does not, or learns by heart what helps with no other image."""
    if _learned_by_heart(case):
        return (
            f"{case.mean('accuracy'):.0%} of the training images are answered right, but at best "
            f"{max(score for _, score in case.scores):.1%} of those evaluated, where guessing gives "
            f"{case.base_rate:.1%}, so the labels look shuffled"
        )
    spread, moved, answers = case.signal("spread"), case.signals("moved", 1), case.signal("answers")
    if not (case.at_chance and case.late) or spread is None or answers is None:
        return ""
    if spread < APART or answers < 3 or max(moved, default=0.0) < USUAL / 2:
        return ""
    if case.mean("loss") > NEAR_GUESSING * (case.guess or 0.0):
        return ""
    return (
        f"{case.standing()}; yet updates move the weights (by up to {max(moved):.2g} of their norm) and features "
        f"differ between images (by {spread:.0%} of their size), so the labels look shuffled"
    )


def chance(case: Case) -> str:
    """At chance, and nothing says why."""
    if not case.at_chance or not (case.late or case.ended):
        return ""
    alike = case.signal("answers") == 1
    return case.standing() + (
        f"; all {case.signal('images'):.0f} images looked at get one answer" if alike else ""
    )


def average_is_behind(scores: Mapping[str, float], headline: Headline, bundle: Path) -> str:
    """Evidence that the raw weights are over a point better than their average, which was shipped; or ""."""
    if scores["raw"] - scores.get("averaged", scores["raw"]) <= 0.01:
        return ""
    return (
        f"the raw weights, in {bundle / 'model.raw.safetensors'}, are better than their average "
        f"({scores['raw']:.2%} and {scores['averaged']:.2%} {headline.name}), which follows them slowly"
    )


def slow_average(case: Case) -> str:
    """The average that was shipped is worse than the weights that it is of."""
    if not case.recipe["averaging"] or case.recipe["keep"] not in ("auto", "averaged"):
        return ""
    scores = {
        line["weights"]: line[case.headline.key]
        for line in case.lines
        if line["kind"] == "test" and line.get(case.headline.key) is not None
    }
    return average_is_behind(scores, case.headline, case.root / "bundle") if "raw" in scores else ""
