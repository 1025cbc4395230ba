"""Tensors as the Open Inference Protocol writes them: as JSON, or in binary after it."""

import asyncio
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from depthwise.errors import shown
from depthwise.infer import Predictor
from depthwise.serve.batcher import Source
from depthwise.serve.bodies import Body, check_count, from_base64, parsed
from depthwise.serve.limits import Limits, RefusedError

INPUTS = {"image": "BYTES", "pixels": "UINT8", "input": "FP32"}
NUMBERS: dict[str, "np.dtype[Any]"] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}
OUTPUTS = ("probabilities", "logits")


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for: as the `classification` likeliest classes, if that is not 0."""

    name: str
    binary: bool = False
    classification: int = 0


@dataclass(frozen=True)
class Asked:
    """What a request has: an id to echo, images, and outputs to give."""

    id: str | None
    images: list[Source]
    outputs: tuple[Wanted, ...]


@dataclass(frozen=True)
class Output:
    """An output to send: float32 values [N, K], or texts of the `shape`."""

    name: str
    shape: tuple[int, ...]
    values: Tensor | list[str]
    binary: bool


def _refuse(sentence: str) -> RefusedError:
    return RefusedError(400, sentence)


async def asked(body: Body, header: str | None, limits: Limits, predictor: Predictor) -> Asked:
    """What the body asks for; header: how many of its bytes are JSON, if others follow. Raises RefusedError."""
    return await asyncio.to_thread(_asked, body.data, header, limits, predictor)


def _asked(data: bytes, header: str | None, limits: Limits, predictor: Predictor) -> Asked:
    end = len(data)
    if header is not None:
        if not header.isdecimal() or len(header) > 12 or int(header) > end:
            raise _refuse(
                f"Inference-Header-Content-Length {shown(header)} is no part of {end} bytes: count the JSON"
            )
        end = int(header)
    values = parsed(data[:end])
    inputs = values.get("inputs") if isinstance(values, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _refuse(f"inputs must hold one tensor: send one of {', '.join(INPUTS)}")
    identity = values.get("id")
    if not isinstance(identity, str | None):
        raise _refuse(f"id={shown(identity)} must be a text: write it in quotes")
    images = _images(inputs[0], data[end:], limits, predictor)
    return Asked(identity, images, _wanted(values))


def _images(tensor: dict[str, Any], binary: bytes, limits: Limits, predictor: Predictor) -> list[Source]:
    name, kind, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if not isinstance(name, str) or name not in INPUTS or INPUTS[name] != kind:
        known = ", ".join(f"{known} ({of})" for known, of in INPUTS.items())
        raise _refuse(f"the input {shown(name)} of {shown(kind)} is unknown: send one of {known}")
    if not isinstance(shape, list) or not shape or not all(type(s) is int and 0 < s < 2**31 for s in shape):
        raise _refuse(
            f"{name} has the shape {shown(shape)}: give numbers above 0, of them first that of images"
        )
    check_count(shape[0], limits)
    told = _parameters(tensor).get("binary_data_size")
    if told is not None and told != len(binary):
        raise _refuse(
            f"{name} has binary_data_size {shown(told)}, and {len(binary)} bytes follow: count them anew"
        )
    if name == "image":
        files = _elements(binary) if told is not None else _texts(tensor.get("data"))
        if math.prod(shape) != shape[0] or len(files) != shape[0]:
            raise _refuse(f"image has the shape {shape} and {len(files)} elements: give [N], and N files")
        return list(files)
    _check_shape(name, shape, limits, predictor)
    values = _numbers(name, NUMBERS[str(kind)], shape, binary if told is not None else tensor.get("data"))
    if name == "pixels":
        return [image.permute(2, 0, 1) for image in values]
    if not values.isfinite().all():
        raise _refuse("input has values that are not finite: send numbers")
    return list(values)


def _check_shape(name: str, shape: list[int], limits: Limits, predictor: Predictor) -> None:
    if name == "input" and tuple(shape[1:]) != predictor.preprocess.shape:
        raise _refuse(
            f"input has the shape {shape}: this network takes [N, *{list(predictor.preprocess.shape)}]"
        )
    if name == "pixels" and (len(shape) != 4 or shape[3] not in (1, 3, 4)):
        raise _refuse(f"pixels has the shape {shape}: give [N, H, W, C] with C 1, 3 or 4")
    if name == "pixels" and shape[1] * shape[2] > limits.max_pixels:
        raise RefusedError(
            413, f"{shape[2]} x {shape[1]} pixels are over the limit of {limits.max_pixels}: scale it down"
        )


def _numbers(name: str, kind: "np.dtype[Any]", shape: list[int], data: Any) -> Tensor:
    """The tensor, from bytes or from lists, nested or not."""
    try:
        if isinstance(data, bytes):
            values = np.frombuffer(data, kind)
        else:
            given = np.array(data if isinstance(data, list) else [data]).ravel()
            if given.dtype.kind not in "iuf":
                raise ValueError("it holds no numbers")
            with np.errstate(invalid="ignore"):  # what does not fit is refused below
                values = given.astype(kind)
            if kind == np.uint8 and (given != values).any():
                raise ValueError("it holds other than whole numbers from 0 to 255")
        return torch.from_numpy(values.reshape(shape).copy())
    except (ValueError, OverflowError) as error:
        raise _refuse(f"{name} has data that is not of its shape {shape} and datatype ({error})") from None


def _texts(data: Any) -> list[bytes]:
    flat = data if isinstance(data, list) else [data]
    while flat and all(isinstance(one, list) for one in flat):
        flat = [one for part in flat for one in part]
    if not all(isinstance(one, str) for one in flat):
        raise _refuse("image has data that is no text: send image files in base64")
    return [from_base64(one, f"image {number}") for number, one in enumerate(flat)]


def _elements(binary: bytes) -> list[bytes]:
    """Each with its length before it, four bytes, the lowest first."""
    found, at = [], 0
    while at < len(binary):
        if at + 4 > len(binary) or (end := at + 4 + struct.unpack_from("<I", binary, at)[0]) > len(binary):
            raise _refuse(
                "image has bytes that end within an element: write each length as four bytes before it"
            )
        found.append(binary[at + 4 : end])
        at = end
    return found


def _parameters(values: dict[str, Any]) -> dict[str, Any]:
    found = values.get("parameters", {})
    if not isinstance(found, dict):
        raise _refuse(f"parameters={shown(found)} must be an object: leave them out if there are none")
    return found


def _wanted(values: dict[str, Any]) -> tuple[Wanted, ...]:
    binary = _parameters(values).get("binary_data_output") is True
    outputs = values.get("outputs") or [{"name": name} for name in OUTPUTS]
    found = []
    for output in outputs if isinstance(outputs, list) else [outputs]:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in OUTPUTS:
            raise _refuse(f"the output {shown(name)} is unknown: ask for {' or '.join(OUTPUTS)}")
        parameters = _parameters(output)
        count = parameters.get("classification", 0)
        if type(count) is not int or not 0 <= count <= 1_000_000:
            raise _refuse(f"classification={shown(count)} must be a number of classes: write for example 3")
        found.append(Wanted(name, parameters.get("binary_data", binary) is True, count))
    return tuple(found)


def outputs_of(asked: Asked, predictor: Predictor, made: Sequence[Any]) -> list[Output]:
    """The outputs that are asked for, of what the network `made` of each image. Raises RefusedError."""
    logits = torch.stack(list(made))
    values = {"logits": logits, "probabilities": predictor.task.answer(logits)}
    found = []
    for wanted in asked.outputs:
        tensor = values[wanted.name].float()
        if not tensor.isfinite().all():
            raise RefusedError(
                500, "the network's answer is not finite: its weights are damaged, or the image is"
            )
        if not wanted.classification:
            found.append(Output(wanted.name, tuple(tensor.shape), tensor, wanted.binary))
            continue
        best = tensor.topk(min(wanted.classification, tensor.shape[1]))
        texts = [
            f"{value:f}:{index}" + (f":{predictor.classes[index]}" if index < len(predictor.classes) else "")
            for row, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            for value, index in zip(row, indices, strict=True)
        ]
        found.append(Output(wanted.name, tuple(best.values.shape), texts, wanted.binary))
    return found


def encoded(outputs: Sequence[Output]) -> tuple[list[dict[str, Any]], bytes]:
    """The outputs as JSON values, and the bytes that follow."""
    described, binary = [], b""
    for output in outputs:
        texts = output.values if isinstance(output.values, list) else None
        one: dict[str, Any] = {
            "name": output.name,
            "datatype": "FP32" if texts is None else "BYTES",
            "shape": list(output.shape),
        }
        if output.binary:
            data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts or ())
            if isinstance(output.values, Tensor):
                data = output.values.contiguous().numpy().astype("<f4").tobytes()
            one["parameters"] = {"binary_data_size": len(data)}
            binary += data
        else:
            one["data"] = output.values.flatten().tolist() if isinstance(output.values, Tensor) else texts
        described.append(one)
    return described, binary
