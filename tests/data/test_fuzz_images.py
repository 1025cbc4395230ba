"""Three hundred damaged images: pixels or a sentence each, little memory, and nothing else happens."""

import subprocess
import sys
import time
from pathlib import Path

COUNT = 300


def test_damaged_images_give_pixels_or_a_sentence_and_do_nothing_else() -> None:
    seed = int(time.time())
    print(f"seed {seed}")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("fuzz_worker.py"), str(seed), str(COUNT)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    assert done.stderr == "", f"seed {seed}: {done.stderr[-2000:]}"
