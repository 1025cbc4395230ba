"""Three hundred damaged images: pixels or a sentence each, little memory, and nothing else happens."""

import subprocess
import sys
from pathlib import Path

COUNT = 300


def test_damaged_images_give_pixels_or_a_sentence_and_do_nothing_else(fuzz_seed: int) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("fuzz_worker.py"), str(fuzz_seed), str(COUNT)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
    assert done.stderr == "", done.stderr[-2000:]
