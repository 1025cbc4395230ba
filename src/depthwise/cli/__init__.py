"""The command `depthwise`: the commands parse and print, what they do stands elsewhere.

Nothing here imports torch before a command runs, so that help, and a mistyped option, answer at once.
"""

import sys


def main() -> None:
    """Run the command in `sys.argv` and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        from depthwise.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
