"""The page to try the models on, and what it asks for: its parts, and the list of models."""

import asyncio
import base64
from functools import cache
from html import escape
from importlib import resources
from mimetypes import guess_type

from fastapi import FastAPI
from starlette.responses import HTMLResponse, JSONResponse, Response

from depthwise.heat import palette
from depthwise.reading import read_regular
from depthwise.serve.card import LISTED, listed
from depthwise.serve.limits import RefusedError
from depthwise.serve.models import unknown_model
from depthwise.serve.openapi import REFUSED, answers
from depthwise.serve.service import Service

PARTS = {
    "/": ("depthwise.serve", "page.html", "text/html"),
    "/page.css": ("depthwise.serve", "page.css", "text/css"),
    "/page.js": ("depthwise.serve", "page.js", "text/javascript"),
    "/report.css": ("depthwise.evaluate", "report.css", "text/css"),
}
"""By their addresses, the files that the page is made of; the report's style is its own, too."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add(app: FastAPI, service: Service) -> None:
    """`GET /` and the page's parts, `GET /v1/models` and a model's examples."""
    for address in PARTS:
        _add_part(app, address)

    @app.get(
        "/v1/models",
        summary="The models, and what is known of them",
        description="The first answers where a request names none.",
        responses=answers(LISTED),
    )
    async def models() -> Response:
        return JSONResponse({"models": [await asyncio.to_thread(listed, model) for model in service.models]})

    @app.get(
        "/v1/models/{name}/examples/{number}",
        summary="A picture to try the model NAME on",
        response_class=Response,
        responses={
            200: {
                "description": "The file.",
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            },
            **REFUSED,
        },
    )
    async def example(name: str, number: int) -> Response:
        return await asyncio.to_thread(_example, service, name, number)


def _example(service: Service, name: str, number: int) -> Response:
    model = service.models.get(name)
    if model is None:
        raise unknown_model(name, service.models)
    if not 0 <= number < len(model.examples):
        raise RefusedError(404, f"{name} has no example {number}: it has {len(model.examples)}, from 0")
    try:
        content = read_regular(file := [*model.examples.values()][number])
    except OSError:
        raise RefusedError(404, f"{name} has no example {number} any more: load it anew") from None
    kind = guess_type(file.name)[0] or ""
    # Whatever the file is, to a browser it is nothing but a picture.
    media_type = kind if kind.startswith("image/") and "svg" not in kind else "application/octet-stream"
    return Response(content, media_type=media_type, headers=HEADERS)


def _add_part(app: FastAPI, address: str) -> None:
    @app.get(
        address,
        summary="The page to try the models on",
        response_class=HTMLResponse,
        include_in_schema=address == "/",
    )
    async def part() -> Response:
        return Response(_text(address), media_type=PARTS[address][2], headers=HEADERS)


@cache
def _text(address: str) -> str:
    package, name, _ = PARTS[address]
    text = resources.files(package).joinpath(name).read_text("utf-8")
    colours = base64.b64encode(palette().tobytes()).decode("ascii")
    return text.replace("{{ colours }}", escape(colours)) if address == "/" else text
