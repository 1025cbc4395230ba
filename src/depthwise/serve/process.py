"""One of the processes of a service.

Arguments: the number of the socket that is listened on. Standard input: a line of JSON, a `Setup`. Standard output:
lines of JSON, {"ready": true} once requests are answered, {"note": a sentence} on the way, or {"failed": the sentence}.
SIGTERM ends it when all that it took is answered, and so does the end of standard input: who started it is gone.
"""

import json
import os
import signal
import socket
import sys
import threading
from typing import Any, TextIO

from depthwise import telemetry
from depthwise.errors import DepthwiseError
from depthwise.stops import released
from depthwise.words import in_a_shell


@in_a_shell()
def main() -> None:
    """Serve what standard input asks for."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is not an answer
    released()
    telemetry.switch_off()
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    from depthwise.serve.server import Told
    from depthwise.serve.setup import Setup, serve

    try:
        told = Told(
            lambda url: _say(answers, {"ready": True}), lambda sentence: _say(answers, {"note": sentence})
        )
        serve(Setup.from_json(asked), socket.socket(fileno=int(sys.argv[1])), told)
    except DepthwiseError as error:
        _say(answers, {"failed": str(error)})
        sys.exit(1)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _say(answers: TextIO, document: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(document) + "\n")
    except OSError:  # nobody listens any more; standard input ends, too
        return


if __name__ == "__main__":
    main()
