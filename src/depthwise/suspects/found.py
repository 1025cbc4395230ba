"""What looks wrong in a data set, as plain values: to be shown, listed and counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from depthwise.data.dataset import Split

LABEL, COPY, BLANK, OUTLIER = "label", "copy", "blank", "outlier"


class Image(NamedTuple):
    """An image of a data set: number `place` of the part `part`, its name, and what it is labelled as."""

    part: str
    place: int
    name: str
    label: str


class WrongLabel(NamedTuple):
    """An image that looks like `suggested`, which is said of it with the probability `odds`, its label with `own`."""

    image: Image
    suggested: str
    odds: float
    own: float

    @property
    def score(self) -> float:
        """From 0 to 1, the higher the surer."""
        return self.odds - self.own


class Copies(NamedTuple):
    """Images that are one picture, and the least correlation of the first with another.

    different_labels, different_parts: whether they are in different classes, in more than one part.
    """

    images: tuple[Image, ...]
    likeness: float
    different_labels: bool
    different_parts: bool


class Outlier(NamedTuple):
    """An image unlike all others: `distance` is 1 less the cosine to those most like it, 0 to 2."""

    image: Image
    distance: float


@dataclass(frozen=True, eq=False)
class Suspects:
    """What looks wrong in `data`, that of the run `run`; what is likeliest to be wrong comes first.

    images: of each part; judged: those of them whose labels and likeness were judged, by networks that did not learn
    from them. confused: (label, suggested, images) of all doubted labels, the most frequent first. blank: images of
    one colour. said: sentences about what was done and left out. splits: where the images themselves are.
    """

    run: str
    data: str
    images: Mapping[str, int]
    judged: Mapping[str, int]
    wrong_labels: Sequence[WrongLabel]
    confused: Sequence[tuple[str, str, int]]
    copies: Sequence[Copies]
    blank: Sequence[Image]
    outliers: Sequence[Outlier]
    said: Sequence[str]
    splits: Mapping[str, Split]

    def to_json(self) -> dict[str, Any]:
        """Everything but the images themselves, as plain values."""
        return {
            "run": self.run,
            "data": self.data,
            "images": dict(self.images),
            "judged": dict(self.judged),
            "labels": [
                {
                    **_image(found.image),
                    "suggested": found.suggested,
                    "probability": found.odds,
                    "label_probability": found.own,
                    "score": found.score,
                }
                for found in self.wrong_labels
            ],
            "copies": [
                {
                    "likeness": found.likeness,
                    "different_labels": found.different_labels,
                    "different_parts": found.different_parts,
                    "images": [_image(image) for image in found.images],
                }
                for found in self.copies
            ],
            "blank": [_image(image) for image in self.blank],
            "outliers": [{**_image(found.image), "distance": found.distance} for found in self.outliers],
            "notes": list(self.said),
        }

    def rows(self) -> "Sequence[Row]":
        """A line for each image that is suspected of something."""
        found = [
            Row(LABEL, of.image.name, of.image.part, of.image.label, of.suggested, of.score)
            for of in self.wrong_labels
        ]
        for number, group in enumerate(self.copies, start=1):
            found += [
                Row(COPY, image.name, image.part, image.label, "", group.likeness, number)
                for image in group.images
            ]
        found += [Row(BLANK, image.name, image.part, image.label) for image in self.blank]
        return [
            *found,
            *(
                Row(OUTLIER, of.image.name, of.image.part, of.image.label, "", of.distance)
                for of in self.outliers
            ),
        ]


class Row(NamedTuple):
    """A line of suspects.csv. score: see `WrongLabel`, `Copies` and `Outlier`; group: the number of the copies."""

    kind: str
    image: str
    part: str
    label: str
    suggested: str = ""
    score: float | str = ""
    group: int | str = ""


def _image(image: Image) -> dict[str, Any]:
    return {"image": image.name, "part": image.part, "label": image.label}
