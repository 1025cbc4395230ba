"""The command `depthwise`: the commands parse and print, what they do stands elsewhere.

Nothing here imports torch before a command runs, so that help, and a mistyped option, answer at once.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Run the command in `sys.argv` and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # Before torch reads it: what its C++ part says of sockets beside an error, with a stack, we tell in a sentence.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    try:
        from depthwise.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    # All is said. Python, which now waits for threads and clears up, would answer another Ctrl-C, and whatever a
    # library then cannot do for want of memory, with a traceback.
    sys.unraisablehook = lambda _: None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    sys.exit(code)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(130)
