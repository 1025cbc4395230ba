"""A report's page inside a notebook."""

import html
import os
from dataclasses import dataclass
from pathlib import Path

HEIGHT = 700  # pixels of it that are shown at once


@dataclass(frozen=True)
class Report:
    """The page at `path`; a notebook shows it."""

    path: Path

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="{HEIGHT}" style="border:0"></iframe>'
