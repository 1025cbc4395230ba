"""The Open Inference Protocol, Hugging Face's shape, and images by URL."""

import base64
import http.server
import json
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tests.serve.serving import png

from depthwise.infer import Predictor
from depthwise.serve.limits import RefusedError
from depthwise.serve.urls import fetched, is_public
from depthwise.ship.load import load

LENGTH = "Inference-Header-Content-Length"
NAMES = ("tiny", "tags", "fast")


@pytest.fixture(scope="session")
def predictors(bundles: dict[str, Path]) -> dict[str, Predictor]:
    return {name: load(path, engine="auto" if name == "fast" else "torch") for name, path in bundles.items()}


def encoded(number: int) -> str:
    return base64.b64encode(png(number)).decode()


def pixels(predictor: Predictor, *numbers: int) -> torch.Tensor:
    return torch.stack([predictor.pixels(png(number)) for number in numbers])  # type: ignore[arg-type]


def close(found: Any, wanted: torch.Tensor) -> None:
    # Batches of other sizes, and in bf16, add in another order.
    torch.testing.assert_close(torch.tensor(found).reshape(wanted.shape), wanted, atol=4e-3, rtol=2e-2)


def image_tensor(*numbers: int) -> dict[str, Any]:
    data = [encoded(number) for number in numbers]
    return {"name": "image", "datatype": "BYTES", "shape": [len(numbers)], "data": data}


@pytest.mark.parametrize("name", NAMES)
def test_infer_gives_the_networks_outputs_for_every_kind_of_input(
    client: httpx.Client, predictors: dict[str, Predictor], name: str
) -> None:
    predictor = predictors[name]
    model = client.get(f"/v2/models/{name}").json()
    small = pixels(predictor, 0, 1)
    again = torch.stack([predictor.pixels(image) for image in small])  # type: ignore[arg-type]
    ready = predictor.preprocess.normalise(small)
    numbers = [round(number, 5) for number in ready.flatten().tolist()]  # 64 kB of JSON
    inputs = [
        image_tensor(0, 1),
        {
            "name": "pixels",
            "datatype": "UINT8",
            "shape": [2, 32, 32, small.shape[1]],
            "data": small.permute(0, 2, 3, 1).tolist(),
        },
        {"name": "input", "datatype": "FP32", "shape": list(ready.shape), "data": numbers},
    ]
    assert [tensor["name"] for tensor in model["inputs"]] == [tensor["name"] for tensor in inputs]
    for tensor, logits in zip(inputs, map(predictor.outputs, (small, again, small)), strict=True):
        body = {"id": "seven", "inputs": [tensor]}
        answer = client.post(f"/v2/models/{name}/versions/{model['versions'][0]}/infer", json=body).json()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == (
            "seven",
            name,
            *model["versions"],
        )
        found = {output["name"]: output for output in answer["outputs"]}
        assert [found[output["name"]]["shape"][1:] for output in model["outputs"]] == [[3], [3]]
        close(found["logits"]["data"], logits)
        close(found["probabilities"]["data"], predictor.task.answer(logits))


def test_binary_tensors_as_tritons_client_sends_them(
    client: httpx.Client, predictors: dict[str, Predictor]
) -> None:
    predictor = predictors["tiny"]
    raw = b"".join(struct.pack("<I", len(png(number))) + png(number) for number in (0, 1))
    ready = predictor.preprocess.normalise(pixels(predictor, 0, 1))
    wanted = predictor.outputs(pixels(predictor, 0, 1))
    for tensor, data in (
        ({"name": "image", "datatype": "BYTES", "shape": [2, 1]}, raw),
        (
            {"name": "input", "datatype": "FP32", "shape": list(ready.shape)},
            ready.contiguous().numpy().tobytes(),
        ),
    ):
        described = {**tensor, "parameters": {"binary_data_size": len(data)}}
        head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
        answer = client.post("/v2/models/tiny/infer", content=head + data, headers={LENGTH: str(len(head))})
        end = int(answer.headers[LENGTH])
        outputs = json.loads(answer.content[:end])["outputs"]
        assert [output["parameters"]["binary_data_size"] for output in outputs] == [24, 24]
        close(list(struct.unpack("<6f", answer.content[end + 24 : end + 48])), wanted)
    asked = {
        "inputs": [image_tensor(0)],
        "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
    }
    (output,) = client.post("/v2/models/tiny/infer", json=asked).json()["outputs"]
    best = predictor(png(0), topk=2)
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    assert [text.split(":")[1:] for text in output["data"]] == [
        [str(index), name] for index, name in zip(best.indices, best.classes, strict=True)
    ]


def test_what_a_service_and_its_models_say_of_themselves(client: httpx.Client) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data", "classification"]
    (version,) = client.get("/v2/models/tiny").json()["versions"]
    assert client.get(f"/v2/models/tiny/versions/{version}/ready").json() == {"name": "tiny", "ready": True}
    for path in ("/v2/models/tiny/versions/1", "/v2/models/cat/ready"):
        assert client.get(path).status_code == 404
    assert "tiny has no version '1': ask for" in client.get("/v2/models/tiny/versions/1").json()["error"]


REFUSED = {
    "none": ({}, "inputs must hold one tensor"),
    "two": ({"inputs": [image_tensor(0)] * 2}, "inputs must hold one tensor"),
    "name": ({"inputs": [{"name": "x"}]}, "the input 'x' of None is unknown: send one of image (BYTES)"),
    "type": ({"inputs": [image_tensor(0) | {"datatype": "FP32"}]}, "the input 'image' of 'FP32' is unknown"),
    "shape": ({"inputs": [image_tensor(0) | {"shape": [-1]}]}, "image has the shape [-1]"),
    "elements": ({"inputs": [image_tensor(0) | {"shape": [2]}]}, "image has the shape [2] and 1 elements"),
    "size": (
        {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": []}]},
        "this network takes [N, *[3, 32, 32]]",
    ),
    "data": (
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 1], "data": [1, 2]}]},
        "pixels has data that is not of its shape",
    ),
    "range": (
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 1], "data": [256]}]},
        "other than whole numbers from 0 to 255",
    ),
    "output": ({"inputs": [image_tensor(0)], "outputs": [{"name": "x"}]}, "the output 'x' is unknown"),
    "id": ({"id": 3, "inputs": [image_tensor(0)]}, "id=3 must be a text"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_infer_refuses(client: httpx.Client, case: str) -> None:
    body, sentence = REFUSED[case]
    answer = client.post("/v2/models/tiny/infer", json=body)
    assert (answer.status_code, sentence in answer.json()["error"]) == (400, True), answer.text


def test_infer_refuses_bytes_that_do_not_add_up(client: httpx.Client) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [tensor]}).encode()
    for data, length, sentence in (
        (bytes(7), len(head), "binary_data_size 8, and 7 bytes follow"),
        (struct.pack("<I", 9) + bytes(4), len(head), "bytes that end within an element"),
        (bytes(8), 10_000, "is no part of"),
        (bytes(8), -1, "is no part of"),
    ):
        answer = client.post("/v2/models/tiny/infer", content=head + data, headers={LENGTH: str(length)})
        assert (answer.status_code, sentence in answer.json()["error"]) == (400, True), answer.text
    broken = client.post("/v2/models/tiny/infer", json={"inputs": [image_tensor(0) | {"data": ["AAAA"]}]})
    assert broken.status_code == 422


@pytest.mark.parametrize("name", NAMES)
def test_hugging_faces_shape(client: httpx.Client, predictors: dict[str, Predictor], name: str) -> None:
    predictor = predictors[name]
    logits = predictor.outputs(pixels(predictor, 0))[0]
    functions = {
        None: predictor.task.answer(logits[None])[0],
        "softmax": logits.softmax(0),
        "sigmoid": logits.sigmoid(),
        "none": logits,
    }
    for function, wanted in functions.items():
        parameters = {"top_k": 2} | ({"function_to_apply": function} if function else {})
        body = {"inputs": encoded(0), "parameters": parameters}
        found = client.post(f"/models/{name}", json=body).json()
        best = wanted.topk(2)
        assert [one["label"] for one in found] == [
            predictor.classes[index] for index in best.indices.tolist()
        ]
        close([one["score"] for one in found], best.values)
    alone = client.post(f"/models/{name}", content=png(0)).json()
    assert len(alone) == 3
    assert client.post(f"/models/{name}", json={"inputs": [encoded(0)]}).json() == [alone]
    if name == "tiny":
        assert client.post("/", content=png(0)).json() == alone


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"inputs": 3}, 400, "the body has no inputs"),
        ({"inputs": "AAAA", "parameters": []}, 400, "parameters must be an object"),
        ({"inputs": encoded(0), "parameters": {"top_k": 0}}, 422, "parameters.top_k=0 must be at least 1"),
        ({"inputs": encoded(0), "parameters": {"top_k": "1"}}, 422, "parameters.top_k='1' must be"),
        (
            {"inputs": encoded(0), "parameters": {"function_to_apply": "x"}},
            422,
            "unknown function_to_apply 'x'",
        ),
        ({"inputs": "AAAA"}, 422, "not an image"),
    ],
)
def test_what_hugging_faces_shape_refuses(
    client: httpx.Client, body: dict[str, Any], status: int, sentence: str
) -> None:
    answer = client.post("/", json=body)
    assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.text


class Pictures(http.server.BaseHTTPRequestHandler):
    """A host of images: one, a way to another place, one without end."""

    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Location", "/a.png?b=1")
        self.end_headers()
        self.wfile.write(png(3))
        if self.path == "/slow":
            time.sleep(1.5)
        if self.path == "/endless":
            self.wfile.write(bytes(10**6))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_urls_are_fetched_from_hosts_that_are_named_at_public_addresses(host: str) -> None:
    def fetch(path: str, hosts: set[str], judge: Any = lambda address: True) -> bytes:
        return fetched(path, hosts, 100_000, time.monotonic() + 1, judge)

    assert fetch(f"http://{host}/a.png?b=1", {host}) == png(3)
    for path, hosts, status, sentence in (
        (f"http://{host}/moved", {host}, 502, "status 302"),
        (f"http://{host}/slow", {host}, 502, "timed out"),
        (f"http://{host}/endless", {host}, 502, "over 100,000 bytes"),
        (f"http://{host}/", {"127.0.0.1"}, 403, "are not fetched here"),
        (f"http://{host}/", set[str](), 403, "are not fetched here"),
        (f"http://me@{host}/", {host}, 400, "without a user"),
        (f"file://{host}/", {host}, 400, "is no address of an image"),
        ("http://[::1/", {host}, 400, "is no address of an image"),
    ):
        with pytest.raises(RefusedError, match=sentence) as refused:
            fetch(path, hosts)
        assert refused.value.status == status
    with pytest.raises(RefusedError, match="at an address that is not public"):
        fetch(f"http://{host}/", {host}, is_public)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1",
     "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"],
)  # fmt: skip
def test_addresses_that_are_not_the_worlds(address: str) -> None:
    assert not is_public(address)
    assert is_public("1.1.1.1")
