"""The pictures of the service's page in docs/serving.md: `python docs/serving_page.py RUN PICTURE...`.

RUN is a run or a bundle; of the PICTURES all are given to it, the first shown first. Needs Chromium and playwright.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
SHOWN = {"light": (900, 760), "dark": (390, 760)}


def main(run: str, *pictures: str) -> None:
    command = [sys.executable, "-m", "depthwise", "serve", run, "--port", "0", "--seconds", "600"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        assert server.stdout
        found = re.search(r"https?://\S+", server.stdout.readline())
        assert found
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme, (width, height) in SHOWN.items():
            page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
            page.set_default_timeout(600_000)
            page.goto(found[0])
            for number, picture in enumerate(reversed(pictures), start=1):
                page.locator("#file").set_input_files(picture)
                page.locator("#results > li").nth(number - 1).wait_for()
            page.screenshot(path=HERE / f"serving-page-{scheme}.png")
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
