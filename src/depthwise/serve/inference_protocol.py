"""The Open Inference Protocol, version 2, over HTTP: health, metadata and infer, with its binary tensor extension.

https://github.com/kserve/open-inference-protocol; what follows the JSON in a binary request or answer is as in Triton's
extension_binary_data.md.
"""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request

import depthwise
from depthwise.serve.limits import RefusedError
from depthwise.serve.models import Model, unknown_model
from depthwise.serve.openapi import answers
from depthwise.serve.service import Service
from depthwise.serve.tensors import INPUTS, OUTPUTS, asked, encoded, outputs_of

_OBJECT = {"type": "object"}
_INPUT = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "anyOf": [
        {"properties": {"name": {"const": n}, "datatype": {"const": kind}}} for n, kind in INPUTS.items()
    ],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
        "data": {
            "type": "array",
            "items": {},
            "description": "the values, row after row; without it they are binary",
        },
        "parameters": _OBJECT,
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _INPUT, "minItems": 1, "maxItems": 1},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"enum": [*OUTPUTS]}, "parameters": _OBJECT},
            },
        },
        "parameters": _OBJECT,
    },
}
_BODY = {"required": True, "content": {"application/json": {"schema": _REQUEST}}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
LENGTH = "Inference-Header-Content-Length"


def add(app: FastAPI, service: Service) -> None:
    """All addresses of the protocol."""
    _add_server(app, service)
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        _add_model(app, service, model)


def _add_server(app: FastAPI, service: Service) -> None:
    @app.get("/v2", summary="What this service is", responses=answers(_OBJECT))
    async def server() -> dict[str, Any]:
        extensions = ["binary_tensor_data", "classification"]
        return {"name": "depthwise", "version": depthwise.__version__, "extensions": extensions}

    @app.get("/v2/health/live", summary="Whether the service runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", summary="Whether requests are to be sent here")
    async def ready() -> Response:
        return JSONResponse({"ready": not service.ending}, 503 if service.ending else 200)


def _add_model(app: FastAPI, service: Service, address: str) -> None:
    of_version = "version" in address
    versions = ", of one version" if of_version else ""
    extra: dict[str, Any] = {"parameters": [_VERSION]} if of_version else {}

    @app.get(
        address,
        summary=f"What a model takes and gives{versions}",
        responses=answers(_OBJECT),
        openapi_extra=extra,
    )
    async def metadata(request: Request, name: str) -> Response:
        return JSONResponse(_metadata(_found(service, request)))

    @app.get(
        f"{address}/ready",
        summary=f"Whether a model answers{versions}",
        responses=answers(_OBJECT),
        openapi_extra=extra,
    )
    async def ready(request: Request, name: str) -> Response:
        model = _found(service, request)
        return JSONResponse({"name": model.name, "ready": not service.ending}, 503 if service.ending else 200)

    @app.post(
        f"{address}/infer",
        summary=f"Tensors of images{versions}",
        description="One input: image, BYTES [N], image files (base64 in JSON); pixels, UINT8 [N, H, W, C]; or input, "
        "FP32 [N, C, H, W] as the network takes it.",
        responses=answers(_OBJECT),
        openapi_extra={**extra, "requestBody": _BODY},
    )
    async def infer(request: Request, name: str) -> Response:
        return await _inferred(service, request)


def _found(service: Service, request: Request) -> Model:
    """The model that the address names. Raises RefusedError."""
    name, version = request.path_params["name"], request.path_params.get("version")
    model = service.models.get(name)
    if model is None:
        raise unknown_model(name, service.models)
    if version not in (None, model.version):
        raise RefusedError(404, f"{name} has no version {version[:100]!r}: ask for {model.version}")
    return model


def _metadata(model: Model) -> dict[str, Any]:
    predictor = model.predictor
    classes, shape = len(predictor.classes), predictor.preprocess.shape
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "depthwise",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, shape[0]]},
            {"name": "input", "datatype": "FP32", "shape": [-1, *shape]},
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "logits", "datatype": "FP32", "shape": [-1, predictor.task.num_outputs]},
        ],
        "parameters": {"classes": list(predictor.classes)},
    }


async def _inferred(service: Service, request: Request) -> Response:
    model = _found(service, request)
    async with service.body(request) as body:
        wanted = await asked(body, request.headers.get(LENGTH), service.limits, model.predictor)
        model, made = await service.outputs(request, model.name, wanted.images, body.deadline)
    for one in made:
        if isinstance(one, RefusedError):
            raise one
    described, binary = encoded(outputs_of(wanted, model.predictor, made))
    document: dict[str, Any] = {
        "model_name": model.name,
        "model_version": model.version,
        "outputs": described,
        **({} if wanted.id is None else {"id": wanted.id}),
    }
    text = json.dumps(document, allow_nan=False).encode()
    if not binary:
        return Response(text, media_type="application/json")
    headers = {LENGTH: str(len(text))}
    return Response(text + binary, headers=headers, media_type="application/octet-stream")
