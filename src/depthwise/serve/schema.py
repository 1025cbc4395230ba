"""What is answered of an image, the same by `predict --json` and over HTTP; and that as a JSON schema."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthwise.heat import Heat
    from depthwise.infer import Prediction


def document(
    name: str, prediction: "Prediction | None", reason: str = "", cam: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The image `name` as JSON: its `prediction`, and `cam` if there is one, or the `reason` why there is none."""
    if prediction is None:
        return {"image": name, "error": reason}
    answers = zip(prediction.classes, prediction.indices, prediction.probabilities, strict=True)
    found = [{"class": c, "index": i, "probability": p} for c, i, p in answers]
    return {"image": name, "predictions": found, **({} if cam is None else {"cam": cam})}


def cam(heats: "Sequence[Heat]", classes: Sequence[str]) -> dict[str, Any]:
    """Where the network looked for some of the `classes`, as JSON; `heats` are of one picture and at least one."""
    one = heats[0]
    return {
        "method": one.method,
        "size": list(one.size),
        "box": [round(number, 3) for number in one.box],
        "maps": [
            {"class": classes[heat.index], "index": heat.index, "map": _rounded(heat.coarse(MOST_PLACES))}
            for heat in heats
        ],
    }


MOST_PLACES = 32
"""Of a map's side: what a network makes of huge pictures would make huge answers."""


def _rounded(values: Any) -> list[list[float]]:
    return [[round(value, 3) for value in row] for row in values.tolist()]


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_TEXT = {"type": "string"}
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_ANSWER = _object(
    ("class", "index", "probability"),
    **{"class": _TEXT, "index": {"type": "integer", "minimum": 0}, "probability": _PROBABILITY},
)
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_PLACES = {"type": "array", "items": {"type": "array", "items": _SHARE}}
_CAM = {
    **_object(
        ("method", "size", "box", "maps"),
        method={"enum": ["cam", "grad-cam"]},
        size={
            "type": "array",
            "items": {"type": "integer"},
            "description": "of the picture, upright: height, width",
        },
        box={
            "type": "array",
            "items": {"type": "number"},
            "description": "of the picture's pixels, what the maps cover: top, left, height, width",
        },
        maps={
            "type": "array",
            "items": _object(
                ("class", "index", "map"),
                **{
                    "class": _TEXT,
                    "index": {"type": "integer", "minimum": 0},
                    "map": {**_PLACES, "description": "a row of places after another, from the top"},
                },
            ),
        },
    ),
    "description": "Where the network looked, if cam=true: how much each place speaks for a class, as a share of the "
    "place that does most; what speaks against it is 0.",
}

DOCUMENT = _object(
    ("images",),
    images={
        "type": "array",
        "items": _object(
            ("image",), image=_TEXT, predictions={"type": "array", "items": _ANSWER}, cam=_CAM, error=_TEXT
        ),
    },
)
"""Of the whole answer: each image has `predictions` or an `error`."""

ERROR = _object(("error",), error=_TEXT)
"""Of everything that is refused: one sentence."""

IMAGES = _object(
    ("images",),
    images={
        "type": "array",
        "minItems": 1,
        "items": {
            "anyOf": [
                {"type": "string", "description": "an image file in base64"},
                _object(("data",), data=_TEXT, name=_TEXT),
                _object(("url",), url={**_TEXT, "pattern": "^https?://[^@]+$"}, name=_TEXT),
            ]
        },
    },
)
"""Of a request in JSON."""
