"""The service as an ASGI application: its addresses, its OpenAPI document, and how refusals are said."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

import depthwise
from depthwise.errors import unknown_name
from depthwise.infer.looking import Asked
from depthwise.serve import hugging_face, inference_protocol, page
from depthwise.serve.batcher import MOST_HEATS, Look
from depthwise.serve.bodies import CLOSE, Named, images_of
from depthwise.serve.limits import RefusedError
from depthwise.serve.openapi import BODY, answers, described
from depthwise.serve.schema import DOCUMENT, cam, document
from depthwise.serve.service import Service
from depthwise.serve.urls import fetched

access = logging.getLogger("depthwise.serve.access")

MOST_HEADER_BYTES = 65_536

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


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
    inference_protocol.add(app, service)
    hugging_face.add(app, service)
    page.add(app, service)
    _add_metrics(app, service)
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
        headers = {"Allow": ", ".join(_methods(app, request))} if error.status_code == 405 else error.headers
        return JSONResponse({"error": sentence}, error.status_code, headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"unexpected {type(error).__name__}: look into the service's log"}, 500)


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Those that are answered at the request's path, by whichever of its routes."""
    here = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in here if isinstance(route, Route) for method in route.methods or ()})


def _add_predict(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/predict",
        summary="Classes and probabilities of images",
        description="Of the first model. One image as the body, several in a form, or JSON. Of several, those that "
        "cannot be read have an error in their place; one alone is refused with its status.",
        responses=answers(DOCUMENT),
        openapi_extra={"requestBody": BODY},
    )
    async def predict(
        request: Request, topk: TopK = None, threshold: Threshold = None, cam: CAM = False
    ) -> Response:
        return await predicted(service, request, None, Asked(topk, threshold, None), looked=cam)

    @app.post(
        "/v1/models/{name}/predict",
        summary="The same of the model NAME",
        responses=answers(DOCUMENT),
        openapi_extra={"requestBody": BODY},
    )
    async def predict_by(
        request: Request, name: str, topk: TopK = None, threshold: Threshold = None, cam: CAM = False
    ) -> Response:
        return await predicted(service, request, name, Asked(topk, threshold, None), looked=cam)


TopK = Annotated[int | None, Query(ge=1, le=1_000_000, description="How many classes to name, at most.")]
Threshold = Annotated[
    float | None, Query(ge=0, le=1, description="Name only classes of at least this probability.")
]
CAM = Annotated[
    bool,
    Query(
        description=f"Say, too, where the network looked for the classes that are named, at most {MOST_HEATS} of them, "
        f"or for the likeliest if none is."
    ),
]


QUERY = ("topk", "threshold", "cam")


async def predicted(
    service: Service, request: Request, name: str | None, asked: Asked, *, looked: bool
) -> Response:
    """The document of a request's images; `looked`: with where the network looked."""
    _check_query(request)
    asked = asked._replace(topk=asked.topk or service.topk)
    async with service.body(request) as body:
        images = await images_of(body, service.limits)
        files = [await source_of(service, image, body.deadline) for image in images]
        sources = [Look(file, asked) if looked and isinstance(file, bytes) else file for file in files]
        model, outputs = await service.outputs(request, name, sources, body.deadline)
    documents = []
    for image, source, output in zip(images, sources, outputs, strict=True):
        found = (
            output if isinstance(output, RefusedError) else service.named(model, image.name, output, asked)
        )
        if isinstance(found, RefusedError):
            if len(images) == 1:
                raise found
            documents.append(document(image.name, None, str(found)))
        else:
            maps = cam(source.heats, model.predictor.classes) if isinstance(source, Look) else None
            documents.append(document(image.name, found, cam=maps))
    return JSONResponse({"images": documents})


def _check_query(request: Request) -> None:
    for name, _ in request.query_params.multi_items():
        if name not in QUERY:
            raise RefusedError(422, str(unknown_name("parameter", name, QUERY)))
        if len(request.query_params.getlist(name)) > 1:
            raise RefusedError(422, f"{name} is given more than once: give it once")


async def source_of(service: Service, image: Named, deadline: float) -> bytes | RefusedError:
    """The image's file, fetched if it is given by a URL and its host is allowed."""
    if image.url is None:
        return image.data
    try:
        return await asyncio.to_thread(fetched, image.url, service.hosts, service.limits.max_bytes, deadline)
    except RefusedError as refused:
        return refused


def _add_metrics(app: FastAPI, service: Service) -> None:
    @app.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        service.count_waiting()
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_docs(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(described(app.openapi()))


async def _too_long(scope: Scope, receive: Receive, send: Send) -> None:
    sentence = f"the headers are over {MOST_HEADER_BYTES:,} bytes: send fewer or shorter ones"
    await JSONResponse({"error": sentence}, 431, CLOSE)(scope, receive, send)


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    sentence = "this service asks for a token: send Authorization: Bearer TOKEN"
    headers = {"WWW-Authenticate": "Bearer", **CLOSE}
    await JSONResponse({"error": sentence}, 401, headers)(scope, receive, send)


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

        answering: Application = app if service.admits(scope) else _unknown
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
            answering = _too_long
        try:
            await answering(scope, receive, sent)
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
