"""The service as an ASGI application: its addresses, its OpenAPI document, and how refusals are said."""

import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

import depthwise
from depthwise.serve.bodies import Named, images_of
from depthwise.serve.limits import RefusedError
from depthwise.serve.schema import DOCUMENT, ERROR, IMAGES, document
from depthwise.serve.service import Service

access = logging.getLogger("depthwise.serve.access")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

REFUSED: dict[int | str, dict[str, Any]] = {
    code: {"description": what, "content": {"application/json": {"schema": ERROR}}}
    for code, what in {
        400: "The request cannot be read.",
        404: "There is no such model.",
        408: "The body came too slowly.",
        413: "Too many bytes, pixels or images.",
        422: "The image cannot be read, or a parameter is out of its bounds.",
        500: "The network failed on the image.",
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


def build(service: Service) -> Application:
    """The application of `service`."""
    app = FastAPI(
        title="depthwise",
        version=depthwise.__version__,
        description="Image classification: one image or many, to classes and probabilities.",
        docs_url=None,  # FastAPI's pages take their scripts from other people's machines
        redoc_url=None,
    )
    _add_errors(app)
    _add_predict(app, service)
    _add_health(app, service)
    _add_docs(app)
    return counted(app, service)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return JSONResponse({"error": str(error)}, error.status, dict(error.headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name, value = first["loc"][-1], str(first.get("input"))[:100]
        return JSONResponse({"error": f"{name}={value}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        sentence = f"{request.method} {request.url.path[:200]}: {error.detail}, see /docs for what there is"
        return JSONResponse({"error": sentence}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"unexpected {type(error).__name__}: look into the service's log"}, 500)


def _add_predict(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/predict",
        summary="Classes and probabilities of images",
        description="Of the first model. One image as the body, several in a form, or JSON. Of several, those that "
        "cannot be read have an error in their place; one alone is refused with its status.",
        responses=answers(DOCUMENT),
        openapi_extra={"requestBody": BODY},
    )
    async def predict(request: Request, topk: TopK = None, threshold: Threshold = None) -> Response:
        return await predicted(service, request, None, topk, threshold)

    @app.post(
        "/v1/models/{name}/predict",
        summary="The same of the model NAME",
        responses=answers(DOCUMENT),
        openapi_extra={"requestBody": BODY},
    )
    async def predict_by(
        request: Request, name: str, topk: TopK = None, threshold: Threshold = None
    ) -> Response:
        return await predicted(service, request, name, topk, threshold)


TopK = Annotated[int | None, Query(ge=1, le=1_000_000, description="How many classes to name, at most.")]
Threshold = Annotated[
    float | None, Query(ge=0, le=1, description="Name only classes of at least this probability.")
]


async def predicted(
    service: Service, request: Request, name: str | None, topk: int | None, threshold: float | None
) -> Response:
    """The document of a request's images."""
    async with service.body(request) as body:
        images = await images_of(body, service.limits)
        sources = [await source_of(service, image) for image in images]
        model, outputs = await service.outputs(request, name, sources, body.deadline)
    documents = []
    for image, output in zip(images, outputs, strict=True):
        found = (
            output
            if isinstance(output, RefusedError)
            else service.named(model, image.name, output, topk, threshold)
        )
        if isinstance(found, RefusedError):
            if len(images) == 1:
                raise found
            documents.append(document(image.name, None, str(found)))
        else:
            documents.append(document(image.name, found))
    return JSONResponse({"images": documents})


async def source_of(service: Service, image: Named) -> bytes | RefusedError:
    """The image's file."""
    if image.url is not None:
        return RefusedError(400, "images by URL are not fetched here: send the file itself")
    return image.data


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/v2/health/live", summary="Whether the service runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", summary="Whether requests are to be sent here")
    async def ready() -> Response:
        return JSONResponse({"ready": not service.ending}, 503 if service.ending else 200)

    @app.get("/metrics", summary="Counters for Prometheus")
    async def metrics() -> Response:
        depths = [(model.name, model.batcher.pending) for model in service.models]
        return Response(service.metrics.text(depths), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_docs(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(described(app.openapi()))


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


def counted(app: Application, service: Service) -> Application:
    """The `app`, whose requests are counted, timed and logged."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun, code = time.monotonic(), 500

        async def sent(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await app(scope, receive, sent)
        finally:
            seconds = time.monotonic() - begun
            path = getattr(scope.get("route"), "path", "other")
            service.metrics.request(path, code, seconds)
            if access.isEnabledFor(logging.INFO):
                line = {
                    "time": round(time.time(), 3),
                    "method": scope["method"],
                    "path": scope["path"][:1000],
                    "code": code,
                    "milliseconds": round(1000 * seconds, 3),
                    "client": (scope.get("client") or ("",))[0],
                }
                access.info(json.dumps(line))

    return call
