"""What a service says of a model: what it is, what it learned from, how good it is and what it costs, for a person."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from depthwise.bundle import BundleConfig
from depthwise.evaluate.sections import duration, magnitude
from depthwise.evaluate.settings import groups, outline
from depthwise.serve.models import Model

Row = tuple[str, str]

LISTED = {
    "type": "object",
    "required": ["models"],
    "properties": {
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "version", "task", "classes", "cam", "examples", "card"],
                "properties": {
                    "name": {"type": "string"},
                    "version": {"type": "string"},
                    "task": {"type": "string"},
                    "classes": {"type": "integer", "description": "how many there are"},
                    "cam": {"type": "boolean", "description": "whether cam=true is answered"},
                    "examples": {
                        "type": "array",
                        "description": "names of pictures to try it on, which are at examples/0, examples/1, ...",
                        "items": {"type": "string"},
                    },
                    "card": {
                        "type": "array",
                        "description": "what a person wants to know: groups, each with rows of two texts",
                        "items": {
                            "type": "object",
                            "required": ["title", "rows"],
                            "properties": {
                                "title": {"type": "string"},
                                "rows": {
                                    "type": "array",
                                    "items": {"type": "array", "items": {"type": "string"}},
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}
"""The JSON schema of all models together, the first first."""


def listed(model: Model) -> dict[str, Any]:
    """The model as JSON. Counting its costs takes up to seconds, the first time."""
    config = model.config
    return {
        "name": model.name,
        "version": model.version,
        "task": config.task,
        "classes": len(config.classes),
        "cam": model.batcher.looks,
        "examples": list(model.examples),
        "card": [{"title": title, "rows": rows} for title, rows in _card(model) if rows],
    }


def _card(model: Model) -> Iterator[tuple[str, list[Row]]]:
    config = model.config
    arguments = [row for _, rows in outline(config.model_args) for row in rows]
    parameters, macs = map(magnitude, model.costs)
    yield (
        "network",
        [
            ("model", config.model),
            *arguments,
            ("task", config.task),
            ("classes", f"{len(config.classes):,}"),
            ("parameters", parameters),
            ("multiply-adds an image", macs),
            ("version", model.version),
        ],
    )
    yield "training", list(_training(config))
    yield from groups({}, config.preprocess.to_json())
    yield "compiled", list(_compiled(config.compiled or {}))


def _training(config: BundleConfig) -> Iterator[Row]:
    """What the summary in the bundle says, as far as it is of the kind that it should be."""
    said = config.training
    origin = said.get("imported_from")
    if isinstance(origin, dict):
        yield from ((name, _local(origin[name])) for name in ("source", "file") if _is_text(origin.get(name)))
    for name, shown in (("data", _local), ("recipe", str), ("license", str)):
        if _is_text(said.get(name)):
            yield name, shown(said[name])
    if _is_number(said.get("steps")):
        yield "updates", f"{said['steps']:,}"
    if _is_number(said.get("seconds")):
        yield "time", duration(said["seconds"])
    yield from _measured(config, said)


def _measured(config: BundleConfig, said: Mapping[str, Any]) -> Iterator[Row]:
    part = f", {said['split']} part" if _is_text(said.get("split")) else ""
    first = config.build_task().headline
    names = {first.key: first.name, "top5": "top-5"}
    for key, name in names.items():
        if _is_number(said.get(key)):
            yield f"{name}{part}", f"{said[key]:.2%}"
    if _is_number(said.get("loss")):
        yield f"loss{part}", f"{said['loss']:.4f}"


def _compiled(compiled: Mapping[str, Any]) -> Iterator[Row]:
    for name in ("precision", "engine"):
        if name in compiled:
            yield name, str(compiled[name])
    if "accuracy" in compiled:
        before, after = compiled["accuracy"]
        yield "accuracy before, after", f"{before:.2%}, {after:.2%}"
    if _is_number(compiled.get("speedup")):
        yield "times as fast as PyTorch", f"{compiled['speedup']:.2f}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _local(name: str) -> str:
    """A path, or several, without their folders, which are nobody's business."""
    return re.sub(r"[^\s,=]*/(?=[^/\s,])", "", name.rstrip("/"))
