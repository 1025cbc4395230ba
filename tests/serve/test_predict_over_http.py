"""What `POST /v1/predict` answers and refuses."""

import base64
import io
import json
import re
import socket
import time
from html import escape
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image
from tests.serve.serving import metric, png

from depthwise.cli.app import run
from depthwise.ship.load import load


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("name", ["tiny", "tags", "fast"])
@pytest.mark.parametrize("query", [{}, {"topk": 2}, {"topk": 3, "threshold": 0.3}])
def test_the_answer_is_that_of_predict_json(
    client: httpx.Client,
    bundles: dict[str, Path],
    name: str,
    query: dict[str, float],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = [tmp_path / f"image {number}" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(png(number))
    options = [part for key, value in query.items() for part in (f"--{key}", str(value))]
    engine = ["--engine", "torch"] if name != "fast" else []
    assert run(["predict", str(bundles[name]), *map(str, files), "--json", *options, *engine]) == 0
    expected = json.loads(capfd.readouterr().out)["images"]
    address = f"/v1/models/{name}/predict"
    alone = [
        client.post(address, params=query, content=png(number)).json()["images"][0] for number in range(3)
    ]
    form = client.post(
        address, params=query, files=[("file", (f.name, f.read_bytes())) for f in files]
    ).json()
    document = {
        "images": [encoded(png(0)), {"data": encoded(png(1))}, {"data": encoded(png(2)), "name": "x"}]
    }
    listed = client.post(address, params=query, json=document).json()
    assert [image["image"] for image in listed["images"]] == ["image 0", "image 1", "x"]
    assert [image["image"] for image in form["images"]] == [file.name for file in files]
    for images in (alone, form["images"], listed["images"]):
        for found, wanted in zip(images, expected, strict=True):
            assert [(one["class"], one["index"]) for one in found["predictions"]] == [
                (one["class"], one["index"]) for one in wanted["predictions"]
            ]
            for one, other in zip(found["predictions"], wanted["predictions"], strict=True):
                # Batches of other sizes, and PyTorch in place of a plan, add in another order.
                assert one["probability"] == pytest.approx(other["probability"], abs=1e-4 if engine else 4e-3)


def test_the_first_model_answers_where_none_is_named(client: httpx.Client) -> None:
    named = client.post("/v1/models/tiny/predict", content=png()).json()
    assert client.post("/v1/predict", content=png()).json() == named


@pytest.mark.parametrize(
    ("name", "query", "maps"), [("tiny", {"topk": 2}, 2), ("tags", {"threshold": 1}, 1), ("fast", {}, 3)]
)
def test_where_the_network_looked_is_what_predictor_cam_says(
    client: httpx.Client, bundles: dict[str, Path], name: str, query: dict[str, float], maps: int
) -> None:
    address, batches = f"/v1/models/{name}/predict", metric(client, "batch_images_count", model=name)
    sent = [png(1), b"broken", png(2, (30, 90))]
    files = [("file", (str(number), data)) for number, data in enumerate(sent)]
    answers = client.post(address, params={**query, "cam": True}, files=files).json()["images"]
    assert metric(client, "batch_images_count", model=name) == batches + 2  # one at a time
    without = client.post(address, params=query, files=files).json()["images"]
    assert answers.pop(1) == without.pop(1)
    predictor = load(bundles[name], engine="auto" if name == "fast" else "torch")
    for answer, plain, data in zip(answers, without, (sent[0], sent[2]), strict=True):
        assert answer["image"] == plain["image"]
        for one, other in zip(answer["predictions"], plain["predictions"], strict=True):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
        expected = predictor.cam(data, **query)  # type: ignore[arg-type]
        cam = answer["cam"]
        assert [(one["class"], one["index"]) for one in cam["maps"]] == [
            (predictor.classes[heat.index], heat.index) for heat in expected.heats
        ]
        assert len(cam["maps"]) == maps
        first = expected.heats[0]
        assert (cam["method"], tuple(cam["size"])) == ("cam", first.size)
        assert cam["box"] == pytest.approx(first.box, abs=1e-3)
        for one, heat in zip(cam["maps"], expected.heats, strict=True):
            torch.testing.assert_close(torch.tensor(one["map"]), heat.strength, atol=2e-3, rtol=0)


def large_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=b"}
REFUSED = {
    "empty": (b"", {}, 400, "the body is empty: send an image file"),
    "no image": (b"hello", {}, 422, "not an image of a format that can be read"),
    "cut off": (png()[: len(png()) // 2], {}, 422, "truncated"),
    "bomb": (large_png(20_000, 20_000), {}, 413, "20000 x 20000 pixels of PNG"),
    "long": (large_png(100_000, 1), {}, 413, "100000 x 1 pixels of PNG"),
    "bytes": (bytes(100_001), {}, 413, "the body is over 100,000 bytes"),
    "no JSON": (b"{", JSON, 400, "the body is no JSON that can be read"),
    "deep": (b"[" * 50_000, JSON, 400, "it is nested too deep"),
    "no images": (b'{"images": []}', JSON, 400, "the body has no images"),
    "a number": (b'{"images": [3]}', JSON, 400, "image 0 is 3: send an image file in base64"),
    "a name": (b'{"images": [{"name": 3, "data": ""}]}', JSON, 400, "name=3 must be a text"),
    "no base64": (b'{"images": ["!"]}', JSON, 400, "image 0 is no base64"),
    "empty image": (b'{"images": [""]}', JSON, 422, "the file is empty"),
    "four": (
        json.dumps({"images": ["AA=="] * 4}).encode(),
        JSON,
        413,
        "4 images in a request, and at most 3",
    ),
    "url": (
        b'{"images": [{"url": "http://127.0.0.1/"}]}',
        JSON,
        403,
        "images from '127.0.0.1:80' are not fetched here",
    ),
    "no boundary": (b"x", {"content-type": "multipart/form-data"}, 400, "the form cannot be read"),
    "no form": (b"x", FORM, 400, "the form"),
    "no file": (
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n',
        FORM,
        400,
        "has no file",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_has_its_status_and_a_sentence(client: httpx.Client, case: str) -> None:
    content, headers, status, sentence = REFUSED[case]
    answer = client.post("/v1/predict", content=content, headers=headers)
    assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.text


def test_a_body_that_does_not_say_how_long_it_is(client: httpx.Client) -> None:
    answer = client.post("/v1/predict", content=(bytes(10_000) for _ in range(20)))
    assert answer.status_code == 413
    assert client.post("/v1/predict", content=iter([png()[:50], png()[50:]])).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("POST", "/v1/predict?topk=0", 422, "topk=0: Input should be greater than or equal to 1"),
        ("POST", "/v1/predict?threshold=nan", 422, "threshold=nan"),
        ("POST", "/v1/predict?top_k=2", 422, "unknown parameter 'top_k': use one of topk"),
        ("POST", "/v1/predict?topk=1&topk=2", 422, "topk is given more than once"),
        ("POST", "/v1/models/cats/predict", 404, "there is no model 'cats': ask for one of tiny, tags, fast"),
        ("GET", "/v1/predict", 405, "see /docs"),
        ("GET", "/nowhere", 404, "see /docs"),
    ],
)
def test_requests_that_mean_nothing(
    client: httpx.Client, method: str, path: str, status: int, sentence: str
) -> None:
    answer = client.request(method, path, content=png() if method == "POST" else None)
    assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.text


def test_an_image_that_cannot_be_read_fails_alone(client: httpx.Client) -> None:
    files = [("file", ("a", png(1))), ("file", ("b", b"broken")), ("file", ("c", png(2)))]
    answer = client.post("/v1/predict", files=files)
    assert answer.status_code == 200
    first, second, third = answer.json()["images"]
    assert second == {"image": "b", "error": "not an image of a format that can be read"}
    assert (
        first["predictions"] == client.post("/v1/predict", content=png(1)).json()["images"][0]["predictions"]
    )
    assert len(third["predictions"]) == 3


def raw(client: httpx.Client, sent: bytes) -> bytes:
    """What comes back until the server closes."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), 60) as connection:
        connection.sendall(sent)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def test_who_sends_slowly_is_let_go(client: httpx.Client) -> None:
    begun = time.monotonic()
    assert raw(client, b"POST /v1/predict HTTP/1.1\r\nHo") == b""
    assert raw(client, b"") == b""
    slow = raw(client, b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
    assert slow.startswith(b"HTTP/1.1 408")
    assert b"the body did not come within 2 s" in slow
    assert raw(client, b"what\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert 6 <= time.monotonic() - begun < 30


def test_who_goes_away_costs_nothing(client: httpx.Client) -> None:
    before = metric(client, "requests_total", code="499")
    for sent in (b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",):
        with socket.create_connection((client.base_url.host, client.base_url.port or 80), 60) as connection:
            connection.sendall(sent)
    while metric(client, "requests_total", code="499") == before:
        time.sleep(0.02)
    assert metric(client, "queue_images") == 0


def test_what_it_says_of_itself(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    openapi = client.get("/openapi.json").json()
    page = client.get("/docs").text
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path}" in page
            assert escape(operation["summary"]) in page
            told = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert told == {*re.findall(r"{(\w+)}", path)}
        allowed = client.request("TRACE", path).headers["Allow"].split(", ")
        assert {method.upper() for method in operations} <= {*allowed}, path
    assert not re.findall(r"(?:src|href)=.?https?:|<script", page)
