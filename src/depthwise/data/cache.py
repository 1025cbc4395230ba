"""The folder in which what was worked out or downloaded is kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/depthwise, or ~/.cache/depthwise. It need not exist; everything in it can be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depthwise"
