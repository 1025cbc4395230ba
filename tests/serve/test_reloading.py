"""Bundles replaced under load, tokens, TLS and the log of requests."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch
from tests.processes import start
from tests.serve.serving import address, png, serving

from depthwise.bundle import read_bundle, write_bundle
from depthwise.cli.app import run


def replaced(path: Path, seed: int) -> None:
    """The bundle with other weights, in the place of itself."""
    bundle = read_bundle(path)
    torch.manual_seed(seed)
    weights = dict(bundle.weights)
    weights["classifier.weight"] = 0.05 * torch.randn_like(weights["classifier.weight"])
    write_bundle(path, bundle.config, weights, overwrite=True)


@pytest.mark.parametrize("how", ["--watch", "SIGHUP"])
def test_a_bundle_is_replaced_without_a_lost_request(tiny_bundle: Path, tmp_path: Path, how: str) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, path)
    with serving(f"a={path}", *(["--watch"] if how == "--watch" else [])) as (client, server):

        def version() -> str:
            return str(client.get("/v2/models/a").json()["versions"][0])

        before, old = version(), client.post("/v1/predict", content=png()).json()
        until, answers = threading.Event(), []

        def ask() -> None:
            with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as own:
                while not until.is_set():
                    answer = own.post("/v1/predict", content=png())
                    answers.append((answer.status_code, answer.text))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        replaced(path, 5)
        if how == "SIGHUP":
            os.kill(server.pid, signal.SIGHUP)
        while version() == before:
            time.sleep(0.05)
        new = client.post("/v1/predict", content=png()).json()
        until.set()
        for thread in threads:
            thread.join()
        assert {code for code, _ in answers} == {200}
        tops = [one["images"][0]["predictions"][0]["probability"] for one in (old, new)]
        assert abs(tops[0] - tops[1]) > 1e-3
        for _, text in answers:  # in batches of other sizes sums differ in their last bits
            top = json.loads(text)["images"][0]["predictions"][0]["probability"]
            assert min(abs(top - one) for one in tops) < 1e-5
        (path / "model.safetensors").write_bytes(b"broken")
        os.utime(path / "config.json")
        if how == "SIGHUP":
            os.kill(server.pid, signal.SIGHUP)
        while "a was not loaded anew and answers as before" not in server.printed[1]:
            time.sleep(0.05)
        assert client.post("/v1/predict", content=png()).status_code == 200
        time.sleep(1.5)
        assert server.printed[1].count("was not loaded anew") == 1


def test_tokens_tls_and_the_log(tiny_bundle: Path, tmp_path: Path) -> None:
    certificate, key, tokens = (tmp_path / name for name in ("certificate.pem", "key.pem", "tokens"))
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tokens.write_text("first\nsecond\n")
    options = [
        "--certificate",
        certificate,
        "--key",
        key,
        "--token-file",
        tokens,
        "--access-log",
        "--port",
        "0",
    ]
    server = start("serve", str(tiny_bundle), *map(str, options))
    try:
        url = address(server)
        assert url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=url, verify=context, timeout=60, trust_env=False) as client:
            assert client.get("/v2/health/ready").json() == {"ready": True}
            for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "first"}):
                answer = client.post("/v1/predict", content=png(), headers=headers)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
                assert "this service asks for a token" in answer.json()["error"]
            for token in ("first", "second"):
                headers = {"Authorization": f"Bearer {token}"}
                assert client.post("/v1/predict", content=png(), headers=headers).status_code == 200
        lines = [json.loads(line) for line in server.printed[1].splitlines()]
        assert [line["code"] for line in lines] == [200, 401, 401, 401, 200, 200]
        assert {"time", "method", "path", "code", "milliseconds", "client"} == set(lines[0])
        assert "first" not in server.printed[1]
    finally:
        os.kill(server.pid, signal.SIGTERM)
        assert server.code() == 0


def test_what_cannot_be_used(tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").touch()
    empty = str(tmp_path / "empty")
    for options, code, sentence in (
        (["--certificate", empty], 2, "--certificate and --key belong together: give both, or none"),
        (["--certificate", empty, "--key", empty], 1, "is no certificate of the key"),
        (["--token-file", empty], 1, "has no tokens: write one a line"),
        (["--token-file", empty + "x"], 1, "cannot be read (No such file or directory)"),
    ):
        assert run(["serve", str(tiny_bundle), *options]) == code
        assert sentence in capfd.readouterr().err
