"""`depthwise draw`: the file it leaves, and what it refuses."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from depthwise.cli.app import run


def written(path: Path) -> list[str]:
    """Everything written on the picture, with x for the multiplication sign."""
    elements = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return [(element.text or "").replace("\N{MULTIPLICATION SIGN}", "x") for element in elements]


def test_a_network_of_the_catalogue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "picture.svg"
    command = [
        "draw",
        "mobilenet_v1",
        "--size",
        "96x64",
        "--classes",
        "7",
        "--set",
        "width=0.25",
        "-o",
        str(out),
    ]
    assert run(command) == 0
    texts = written(out)
    assert texts[0] == "mobilenet_v1, width=0.25"
    assert {"96x64x3 input", "7 logits"} <= set(texts)
    assert capsys.readouterr().out.startswith(f"{out}: ")
    assert list(out.parent.iterdir()) == [out]


def test_a_bundle_with_its_own_size_and_classes(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "picture.svg"
    assert run(["draw", str(tiny_bundle), "-o", str(out)]) == 0
    texts = written(out)
    assert texts[0] == "xception (bundle)"
    assert {"32x32x3 input", "3 logits"} <= set(texts)


def test_a_kind_of_layer(tmp_path: Path) -> None:
    out = tmp_path / "picture.svg"
    assert run(["draw", "separable", "--set", "m=16", "n=32", "-o", str(out)]) == 0
    assert {"DepthwiseConv 3x3", "Conv 32, 1x1"} <= set(written(out))


def test_an_existing_file_is_replaced_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "picture.svg"
    out.write_text("mine")
    assert run(["draw", "nin", "-o", str(out)]) == 1
    assert capsys.readouterr().err == (
        f"error: {out} exists and is not overwritten: choose another name or add --force\n"
    )
    assert out.read_text() == "mine"
    assert run(["draw", "nin", "-o", str(out), "--force"]) == 0
    assert written(out)[0] == "nin"


@pytest.mark.parametrize(
    ("tokens", "code", "sentence"),
    [
        (["xceptio", "-o", "a.svg"], 2, "unknown network, layer or bundle 'xceptio': use one of xception"),
        (["nin", "-o", "a.png"], 2, "a.png does not end in .svg, and that is what is drawn: name it a.svg"),
        (["nin", "-o", "folder.svg", "--force"], 1, "folder.svg is a folder: name a file in it"),
        (["nin", "-o", "a.svg", "--size", "big"], 2, "size 'big' is no size: write S or HxW"),
        (["nin", "-o", "a.svg", "--size", "4"], 1, "an image of 4x4 is below this network's minimum"),
        (["nin", "-o", "a.svg", "--set", "widht=2"], 2, "unknown argument of nin 'widht': use one of width"),
        (
            ["nin", "-o", "a.svg", "--set", "width=wide"],
            2,
            "width='wide' must be a number or a tuple: write for example width=1.0",
        ),
        (["nin", "-o", "a.svg", "--set", "width"], 2, "setting 'width' has no '='"),
        (["nin"], 2, "--out"),
    ],
)
def test_what_is_refused_in_a_sentence(
    tokens: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder.svg").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(["draw", *tokens]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]
