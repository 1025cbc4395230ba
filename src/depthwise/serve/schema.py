"""What is answered of an image, the same by `predict --json` and over HTTP; and that as a JSON schema."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthwise.infer import Prediction


def document(name: str, prediction: "Prediction | None", reason: str = "") -> dict[str, Any]:
    """The image `name` as JSON: its `prediction`, or the `reason` why there is none."""
    if prediction is None:
        return {"image": name, "error": reason}
    answers = zip(prediction.classes, prediction.indices, prediction.probabilities, strict=True)
    return {"image": name, "predictions": [{"class": c, "index": i, "probability": p} for c, i, p in answers]}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_TEXT = {"type": "string"}
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_ANSWER = _object(
    ("class", "index", "probability"),
    **{"class": _TEXT, "index": {"type": "integer", "minimum": 0}, "probability": _PROBABILITY},
)

DOCUMENT = _object(
    ("images",),
    images={
        "type": "array",
        "items": _object(
            ("image",), image=_TEXT, predictions={"type": "array", "items": _ANSWER}, error=_TEXT
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
                _object(("url",), url=_TEXT, name=_TEXT),
            ]
        },
    },
)
"""Of a request in JSON."""
