"""The page to try a model on, in a real browser, of a real server."""

import base64
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect
from tests.evaluate.report_parts import CONTRAST, scrolls_sideways
from tests.serve.serving import png, serving

from depthwise import compile
from depthwise.bundle import read_bundle
from depthwise.heat import palette

Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, client: httpx.Client) -> Iterator[Open]:
    """Opens the page; afterwards nothing else was asked for anywhere, and no error was in the console."""
    trouble: list[str] = []
    contexts = []

    def opened(
        address: object = client.base_url, *, width: int = 1280, scheme: Any = "light", touch: bool = False
    ) -> Page:
        own = str(address)
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            has_touch=touch,
            reduced_motion="reduce",
        )
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "request",
            lambda r: trouble.append(r.url) if not r.url.startswith((own, "data:", "blob:")) else None,
        )
        # A request that is refused is an error to the browser, and none of the page.
        page.on(
            "console",
            lambda m: (
                trouble.append(m.text) if m.type == "error" and "the server responded" not in m.text else None
            ),
        )
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(own)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def file(name: str, number: int = 0) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": png(number, (60, 40))}


def first(page: Page) -> Locator:
    return page.locator("#results > li").first


def said(client: httpx.Client, model: str, number: int) -> list[tuple[str, str]]:
    """The classes and their percents that the page should name."""
    answer = client.post(f"/v1/models/{model}/predict", content=png(number, (60, 40))).json()["images"][0]
    return [(one["class"], f"{100 * one['probability']:.1f}%") for one in answer["predictions"]]


def lines(answer: Locator) -> list[tuple[str, str]]:
    names, meters = answer.locator(".said .name"), answer.locator(".said .meter")
    return list(zip(names.all_inner_texts(), meters.all_inner_texts(), strict=True))


def transfer(page: Page, number: int) -> Any:
    """What a browser hands over with a picture that is dropped or pasted."""
    return page.evaluate_handle(
        """(text) => {
          const data = new DataTransfer(), bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
          data.items.add(new File([bytes], "handed.png", { type: "image/png" }));
          return data;
        }""",
        base64.b64encode(png(number, (60, 40))).decode(),
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_chosen_pictures_get_their_classes_and_fit(
    open_page: Open, client: httpx.Client, width: int, scheme: str
) -> None:
    page = open_page(width=width, scheme=scheme, touch=width < 600)
    expect(page.locator(".camera")).to_be_visible(visible=width < 600)
    page.locator("#file").set_input_files([file("a.png", 1), file(f"{'long' * 30}<b>.png", 2)])
    expect(page.locator("#results > li")).to_have_count(2)
    expect(first(page).locator("h2")).to_have_text(f"{'long' * 30}<b>.png")
    assert lines(first(page)) == said(client, "tiny", 2)
    expect(page.locator("#results > li").nth(1).locator("h2")).to_have_text("a.png")
    expect(first(page).locator(".took")).to_have_text(re.compile(r"^tiny, \d+ ms"))
    page.locator("#file").set_input_files([{**file("bad.png"), "buffer": b"broken"}])
    expect(first(page).locator(".bad")).to_have_text("not an image of a format that can be read")
    expect(first(page).locator(".unseen")).to_be_visible()
    expect(page.locator("#status")).to_have_text("bad.png: not an image of a format that can be read")
    assert not scrolls_sideways(page)
    assert page.evaluate(CONTRAST) == []
    luminance = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)"
    )
    assert (luminance < 200) == (scheme == "dark")


def test_pictures_are_dropped_and_pasted(open_page: Open, client: httpx.Client) -> None:
    page = open_page()
    expect(page.locator("#open")).to_be_visible()
    for number, event, holder in ((3, "drop", "dataTransfer"), (4, "paste", "clipboardData")):
        page.evaluate(
            """([data, event, holder]) => {
              const kind = event === "paste" ? ClipboardEvent : DragEvent;
              document.body.dispatchEvent(new kind(event, { [holder]: data, bubbles: true, cancelable: true }));
            }""",
            [transfer(page, number), event, holder],
        )
        expect(page.locator("#results > li")).to_have_count(number - 2)
        assert lines(first(page)) == said(client, "tiny", number)


def test_the_keyboard_is_enough(open_page: Open, bundles: dict[str, Path]) -> None:
    page = open_page()
    expect(page.locator("#choice")).to_be_visible()
    press, focused = page.keyboard.press, page.locator(":focus")
    press("Tab")
    expect(focused).to_have_text("Skip to the pictures")
    press("Enter")
    press("Tab")
    expect(focused).to_have_id("model")
    press("ArrowDown")
    expect(page.locator("#card-title")).to_have_text("The model tags")
    press("ArrowUp")
    press("Tab")
    expect(focused).to_have_id("file")
    # The browser's own window for files is not the page's: that Enter asks for it is.
    focused.evaluate(
        "(input) => input.addEventListener('click', (e) => { e.preventDefault(); input.title = 'asked'; })"
    )
    press("Enter")
    expect(focused).to_have_attribute("title", "asked")
    page.locator("#file").set_input_files([file("k.png", 5)])
    expect(page.locator("#status")).to_have_text(re.compile(r"^k\.png: .+ \d+\.\d%, .+ \d+\.\d%"))
    press("Tab")
    buttons = first(page).locator(".said button")
    expect(buttons.first).to_be_focused()
    press("Tab")
    press("Enter")
    expect(buttons.nth(1)).to_have_attribute("aria-pressed", "true")
    press("Tab")
    press("Tab")
    slider = first(page).locator("input[type=range]")
    expect(slider).to_be_focused()
    press("Home")
    expect(first(page).locator("canvas")).to_have_css("opacity", "0")


def test_the_heat_is_that_of_the_class_and_its_slider_fades_it(open_page: Open, client: httpx.Client) -> None:
    page = open_page()
    page.locator("#file").set_input_files([file("a.png", 1)])
    canvas, buttons = first(page).locator("canvas"), first(page).locator(".said button")
    asked = client.post("/v1/predict?cam=true", content=png(1, (60, 40))).json()["images"][0]["cam"]
    box, size = asked["box"], asked["size"]
    for number, one in enumerate(asked["maps"]):
        buttons.nth(number).click()
        expect(canvas).to_have_attribute("aria-label", f"Where the network looked for {one['class']}")
        corner = canvas.evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, 1, 1).data]")
        wanted = palette()[round(255 * one["map"][0][0])].tolist()
        assert abs(corner[3] - wanted[3]) <= 2
    picture, veil = first(page).locator("img").bounding_box(), canvas.bounding_box()
    assert picture
    assert veil
    assert veil["width"] / picture["width"] == pytest.approx(box[3] / size[1], abs=0.02)
    assert (veil["y"] - picture["y"]) / picture["height"] == pytest.approx(box[0] / size[0], abs=0.02)
    slider = first(page).locator("input[type=range]")
    slider.fill("20")
    expect(canvas).to_have_css("opacity", "0.2")


def test_tags_are_those_over_their_thresholds(open_page: Open, client: httpx.Client) -> None:
    page = open_page()
    page.locator("#model").select_option("tags")
    page.locator("#file").set_input_files([file("a.png", 1)])
    expect(page.locator("#results > li")).to_have_count(1)
    expected = said(client, "tags", 1)
    assert lines(first(page)) == expected
    expect(first(page).locator(".none")).to_be_visible(visible=not expected)
    expect(first(page).locator("canvas")).to_be_visible()


def test_a_model_says_what_is_known_of_it(
    open_page: Open, client: httpx.Client, bundles: dict[str, Path]
) -> None:
    models = client.get("/v1/models").json()["models"]
    assert [(one["name"], one["classes"], one["cam"]) for one in models] == [
        (name, 3, True) for name in bundles
    ]
    cards = [{group["title"]: dict(group["rows"]) for group in one["card"]} for one in models]
    config = read_bundle(bundles["fast"]).config
    assert config.compiled
    assert cards[2]["compiled"]["precision"] == config.compiled["precision"]
    assert "compiled" not in cards[0]
    assert cards[1]["network"]["task"] == "multi-label"
    assert cards[1]["preprocessing"]["size"] == "32x32 pixels"
    page = open_page()
    for title, rows in cards[0].items():
        table = page.locator("#card table", has=page.locator(f"caption:text-is('{title}')"))
        expect(table.locator("th")).to_have_text(list(rows))
        expect(table.locator("td")).to_have_text(list(rows.values()))


def test_the_page_asks_for_a_token(open_page: Open, tiny_bundle: Path, tmp_path: Path) -> None:
    """Of a bundle that says where it comes from, with folders that are nobody's business."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for each in tiny_bundle.iterdir():
        (bundle / each.name).write_bytes(each.read_bytes())
    config = json.loads((bundle / "config.json").read_text())
    config["training"] = {
        "data": "train=/home/ann/a.csv,val=b/",
        "top1": 0.5,
        "split": "test",
        "license": "CC0",
        "seconds": "?",
    }
    (bundle / "config.json").write_text(json.dumps(config))
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    with serving(f"one={bundle}", "--token-file", tokens) as (client, _):
        assert client.get("/v1/models").status_code == client.post("/", content=png()).status_code == 401
        headers = client.get("/").headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        page = open_page(client.base_url)
        for token in ("wrong", "secret"):
            page.get_by_label("This service asks for a token").fill(token)
            page.get_by_role("button", name="Go on").click()
            if token == "wrong":
                expect(page.locator("#status")).to_have_text("This is none of its tokens.")
        expect(page.locator("#choice")).to_be_hidden()
        page.locator("#file").set_input_files([file("a.png", 1)])
        expect(first(page).locator(".said li")).to_have_count(3)
        training = page.locator("#card table", has=page.locator("caption:text-is('training')"))
        expect(training.locator("th")).to_have_text(["data", "license", "top-1, test part"])
        expect(training.locator("td")).to_have_text(["train=a.csv,val=b", "CC0", "50.00%"])


def test_examples_of_the_bundle_are_a_click_away(open_page: Open, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, tokens = tmp_path / "bundle", tmp_path / "tokens"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "examples/cat").mkdir(parents=True)
    (bundle / "examples/cat/b.png").write_bytes(png(7, (60, 40)))
    (bundle / "examples/a.jpg").write_bytes(b"<html>")
    (bundle / "examples/notes.txt").write_text("no picture")
    tokens.write_text("secret\n")
    (bundle / "examples/out.png").symlink_to(tokens)
    Path(os.fsdecode(bytes(bundle / "examples") + b"/\xff.png")).write_bytes(png(8, (60, 40)))
    compiled = tmp_path / "compiled"
    compile(bundle, out=compiled)  # takes them along
    with serving(f"one={compiled}", "--token-file", tokens) as (client, _):
        page, known = open_page(client.base_url), {"Authorization": "Bearer secret"}
        assert client.get("/v1/models/one/examples/0").status_code == 401
        assert client.get("/v1/models", headers=known).json()["models"][0]["examples"] == ["cat/b.png"]
        found = client.get("/v1/models/one/examples/0", headers=known)
        assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
        assert found.content == png(7, (60, 40))
        assert found.headers["x-content-type-options"] == "nosniff"
        none = client.get("/v1/models/one/examples/1", headers=known)
        assert (none.status_code, none.json()["error"]) == (404, "one has no example 1: it has 1, from 0")
        page.get_by_label("This service asks for a token").fill("secret")
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#examples button")).to_have_count(1)
        page.get_by_role("button", name="cat/b.png").click()
        expect(first(page).locator("h2")).to_have_text("cat/b.png")
        expect(first(page).locator(".said li")).to_have_count(3)
        (compiled / "examples/cat/b.png").unlink()
        gone = client.get("/v1/models/one/examples/0", headers=known)
        assert gone.json()["error"] == "one has no example 0 any more: load it anew"


def test_the_parts_are_those_of_the_package(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in re.findall(r'(?:src|href)="([\w.]+)"', page.text):
        assert client.get(f"/{name}").status_code == 200
    assert "{{" not in page.text
