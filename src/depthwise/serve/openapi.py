"""What the OpenAPI document says of bodies and answers, and that document as a page."""

import json
from html import escape
from typing import Any

from depthwise.serve.schema import ERROR, IMAGES

REFUSED: dict[int | str, dict[str, Any]] = {
    code: {"description": what, "content": {"application/json": {"schema": ERROR}}}
    for code, what in {
        400: "The request cannot be read.",
        404: "There is no such model.",
        408: "The body came too slowly.",
        401: "There is no token, or a wrong one.",
        403: "Images are not fetched from there.",
        413: "Too many bytes, pixels or images.",
        422: "The image cannot be read, a parameter is out of its bounds, or there is no map for cam.",
        431: "The headers are too long.",
        500: "The network failed on the image.",
        502: "An image was not sent by its host.",
        503: "Too much is waiting; Retry-After says for how long.",
        504: "The deadline has passed.",
    }.items()
}

BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/json": {"schema": IMAGES},
    },
}


def answers(schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation whose answer is of `schema`, for its OpenAPI description."""
    return {
        200: {"description": "The answer.", "content": {"application/json": {"schema": schema}}},
        **REFUSED,
    }


def described(openapi: dict[str, Any]) -> str:
    """The OpenAPI document as a page without scripts."""
    parts = []
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            more = {
                key: operation[key] for key in ("parameters", "requestBody", "responses") if key in operation
            }
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}. "
                f"{escape(operation.get('description', ''))}</p><details><summary>Details</summary>"
                f"<pre>{escape(json.dumps(more, indent=1))}</pre></details>"
            )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>depthwise</title><style>body{font:1rem/1.5 '
        "system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}</style>"
        f"<h1>depthwise {escape(openapi['info']['version'])}</h1><p>{escape(openapi['info']['description'])} "
        f'The same for programs: <a href="openapi.json">openapi.json</a>.</p>{"".join(parts)}</html>'
    )
