"""The table of commands, and how each of them ends: which exit code, which sentence."""

import errno
import os
import re
import signal
import sys
import traceback
import warnings
from io import TextIOWrapper
from typing import cast

from cyclopts import App, CycloptsError, Parameter

from depthwise import telemetry
from depthwise.cli import (
    bench,
    compile,
    cost,
    data,
    doctor,
    draw,
    embed,
    evaluate,
    experiment,
    export,
    import_,
    models,
    plan,
    predict,
    serve,
    suspects,
    train,
)
from depthwise.cli.limits import limit_reached, spare_threads, try_torch_first
from depthwise.cli.options import STANDARD_INPUT, command, whole_numbers
from depthwise.cli.output import note
from depthwise.errors import DepthwiseError, UsageError
from depthwise.words import in_a_shell, printable, quote

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

DEBUG = "--debug"

AGAIN = "nothing is half written, give the command again"  # to who interrupts what keeps no state of its own

_LONG = re.compile(r"(\S{300})\S{100,}")  # a word that no sentence can hold


def _version() -> str:
    import depthwise

    return depthwise.__version__


app = App(
    name="depthwise",
    help="Train, compare and ship depthwise-separable image classifiers.\n\n"
    "Begin with: depthwise train --data digits --model xception --out runs/first",
    help_epilogue=f"With {DEBUG}, any command that fails shows the traceback as well.",
    help_format="plaintext",
    default_parameter=Parameter(converter=whole_numbers),
    version=_version,
    suppress_keyboard_interrupt=False,
)
app.command(command(train.train))
app.command(command(evaluate.evaluate), name="eval")
app.command(command(doctor.doctor))
app.command(command(predict.predict))
app.command(command(serve.serve))
app.command(command(embed.embed))
app.command(command(embed.similar))
app.command(command(import_.import_), name="import")
app.command(command(export.export))
app.command(command(compile.compile))
app.command(command(bench.bench))
app.command(command(models.models))
app.command(command(cost.cost))
app.command(command(plan.plan))
app.command(command(draw.draw))
data.app.command(command(suspects.suspects))
app.command(data.app)
app.command(experiment.app)


@in_a_shell()
def run(tokens: list[str]) -> int:
    """Run the command that `tokens` spell and return its exit code; what goes wrong is one sentence on stderr."""
    telemetry.switch_off()
    # `kill` and a service manager's stop end a run as Ctrl-C does: with a checkpoint and a sentence.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Class names and file names are printed whatever the locale; a name that is no UTF-8 keeps its bytes.
    cast(TextIOWrapper, sys.stdout).reconfigure(encoding="utf-8", errors="surrogateescape")
    warnings.formatwarning = lambda message, *_: f"warning: {printable(str(message))}\n"
    tokens, debug = _take_debug(tokens)
    spare_threads()
    try_torch_first()
    # The parser takes a lone - for an option.
    tokens = [STANDARD_INPUT if token == "-" else token for token in tokens]
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code or DONE
    except CycloptsError as error:
        files = [token for token in tokens if token.startswith("-") and os.path.exists(token)]
        hint = f" The file of this name goes behind a --, as in: -- {quote(files[0])}" if files else ""
        return _fail(" ".join(str(error).split()) + hint, USAGE, debug)
    except UsageError as error:
        return _fail(str(error), USAGE, debug)
    except DepthwiseError as error:
        return _fail(str(error), FAILED, debug)
    except KeyboardInterrupt as error:
        return _fail(str(error) or AGAIN, INTERRUPTED, debug, "interrupted")
    except BrokenPipeError:
        return FAILED  # quietly: the reader, `head` say, has what it wants
    except Exception as error:
        if limit := limit_reached(error):
            return _fail(limit, FAILED, debug)
        hint = "" if debug else f" (run again with {DEBUG} for the traceback)"
        return _fail(_describe(error) + hint, FAILED, debug)
    finally:
        _flush()


def _flush() -> None:
    """Write out what is buffered, or drop it: at exit Python would complain about it a second time."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _take_debug(tokens: list[str]) -> tuple[list[str], bool]:
    """The tokens without the option that every command has; behind `--` it is an argument like any other."""
    end = tokens.index("--") if "--" in tokens else len(tokens)
    options = [token for token in tokens[:end] if token != DEBUG]
    return options + tokens[end:], len(options) < end


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
        return "standard output cannot be written, no space is left: free some, or send it elsewhere"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    reason = str(error).partition("\n")[0]  # behind it torch lists its own C++ calls
    return f"unexpected {type(error).__name__}" + (f": {reason}" if reason else "")


def _fail(sentence: str, code: int, debug: bool, head: str = "error") -> int:
    if debug:
        for line in traceback.format_exc().splitlines():
            note(line)
    note(_LONG.sub(r"\1...", f"{head}: {sentence}"))
    return code
