"""`depthwise draw`: the architecture of a network, a bundle or a kind of layer as a picture."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from depthwise.cli.options import flag
from depthwise.cli.output import say
from depthwise.cli.subject import Classes, Name, Settings, Size, build_subject, find_subject
from depthwise.errors import UsageError
from depthwise.writing import check_free


def draw(
    name: Name,
    /,
    *,
    out: Annotated[Path, Parameter(name=("--out", "-o"), help="The picture's file, FILE.svg.")],
    size: Size = None,
    classes: Classes = None,
    settings: Settings = None,
    force: Annotated[bool, flag("Replace the file if it exists.")] = False,
) -> None:
    """Draw the architecture as an SVG: modules as in the papers, repeats folded, with shapes and costs.

    Example: depthwise draw xception -o xception.svg
    """
    if out.suffix.lower() != ".svg":
        raise UsageError(f"{out} does not end in .svg, and that is what is drawn: name it {out.stem}.svg")
    check_free(out, force)
    subject = find_subject(name, size, classes, settings or [])
    module, shape = build_subject(subject)
    from depthwise.draw import draw as picture
    from depthwise.train.files import write_text

    own = f" ({Path(name).resolve().name})" if name != subject.name else ""
    varied = "".join(f", {setting}" for setting in settings or [])
    text = picture(module, shape, f"{subject.name}{own}{varied}")
    write_text(out, text)
    say(f"{out}: open it in a browser, put it in a paper or a slide")
