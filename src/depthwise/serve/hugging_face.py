"""The shape of Hugging Face's image classification: `inputs` and `parameters`, and a list of labels with scores."""

from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request
from torch import Tensor

from depthwise.bounds import Bounds, fit
from depthwise.errors import UsageError
from depthwise.serve.bodies import Body, check_count, from_base64, json_of
from depthwise.serve.limits import Limits, RefusedError
from depthwise.serve.models import Model
from depthwise.serve.openapi import answers
from depthwise.serve.service import Service
from depthwise.tasks.scores import scores

TOP_K = 5
_COUNT = Annotated[int, Bounds(1, 1_000_000)]

_SCORES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["label", "score"],
        "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "parameters": {
            "type": "object",
            "properties": {
                "top_k": {"type": "integer", "minimum": 1},
                "function_to_apply": {"enum": ["softmax", "sigmoid", "none"]},
            },
        },
    },
}
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": _REQUEST},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


def add(app: FastAPI, service: Service) -> None:
    """`POST /` for the first model, `POST /models/NAME` for any."""
    described: dict[str, Any] = {"responses": answers(_SCORES), "openapi_extra": {"requestBody": _BODY}}

    @app.post("/", summary="Labels with scores, in Hugging Face's shape", **described)
    async def classify(request: Request) -> Response:
        return await _classified(service, request, None)

    @app.post(
        "/models/{name}", summary="Labels with scores of the model NAME, in Hugging Face's shape", **described
    )
    async def classify_by(request: Request, name: str) -> Response:
        return await _classified(service, request, name)


async def _classified(service: Service, request: Request, name: str | None) -> Response:
    async with service.body(request) as body:
        images, alone, parameters = await _asked(body, service.limits)
        top_k = _parameter(parameters, "top_k", int | None) or service.topk or TOP_K
        function = _parameter(parameters, "function_to_apply", str | None)
        model, outputs = await service.outputs(request, name, images, body.deadline)
    lists = []
    for output in outputs:
        if isinstance(output, RefusedError):
            raise output
        lists.append(_labels(model, output, top_k, function))
    return JSONResponse(lists[0] if alone else lists)


async def _asked(body: Body, limits: Limits) -> tuple[list[bytes], bool, dict[str, Any]]:
    """The images, whether they are one alone, and the parameters."""
    if not body.data:
        raise RefusedError(400, 'the body is empty: send an image file, or {"inputs": "its base64"}')
    if body.kind != "application/json":
        return [body.data], True, {}
    values = await json_of(body)
    inputs = values.get("inputs") if isinstance(values, dict) else None
    alone = isinstance(inputs, str)
    texts = [inputs] if alone else inputs
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RefusedError(400, 'the body has no inputs: send {"inputs": "an image file in base64"}')
    check_count(len(texts), limits)
    parameters = values.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise RefusedError(400, 'parameters must be an object: send for example {"top_k": 3}')
    return (
        [from_base64(str(text), f"input {number}") for number, text in enumerate(texts)],
        alone,
        parameters or {},
    )


def _parameter(parameters: dict[str, Any], name: str, kind: Any) -> Any:
    try:
        value = fit(parameters.get(name), kind, f"parameters.{name}")
        return value if not isinstance(value, int) else fit(value, _COUNT, f"parameters.{name}", TOP_K)
    except UsageError as error:
        raise RefusedError(422, str(error)) from None


def _labels(model: Model, output: Tensor, top_k: int, function: str | None) -> list[dict[str, Any]]:
    predictor = model.predictor
    try:
        if function is None:
            values = predictor.task.answer(output[None])[0]
        else:
            values = scores(output, function, len(predictor.classes))
    except UsageError as error:
        raise RefusedError(422, str(error)) from None
    if not values.isfinite().all():
        raise RefusedError(
            500, "the network's answer is not finite: its weights are damaged, or the image is"
        )
    best = values.topk(min(top_k, len(values)))
    return [
        {"label": predictor.classes[index], "score": score}
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
