"""`depthwise plan`: what a training on several processes would take, synchronous and asynchronous, and why."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from depthwise.bounds import Bounds
from depthwise.cli.options import Json
from depthwise.cli.output import console, print_json, say, status, table
from depthwise.cli.subject import Classes, Settings, Size, Subject, build_subject, find_subject
from depthwise.errors import UsageError
from depthwise.words import number_of, pace

if TYPE_CHECKING:
    from depthwise.analysis.scaling import Asynchronous, Link, Step, Synchronous, Traffic
    from depthwise.recipes import Traits
    from depthwise.train.recipe import Recipe

UPDATES = 5
"""Measured where no time of a step is given."""

DAY = 86_400

Count = Annotated[int, Bounds(1, 4096)]
Samples = Annotated[int, Bounds(1, 10**15)]


@dataclass(frozen=True)
class Paper:
    """A training of Chollet 2017: the `mode` of its descent, how many `days` it took, what is `said` of it, and where
    its length in samples comes from."""

    traits: "Traits"
    recipe: "Recipe"
    samples: int
    mode: str
    days: int
    said: str
    length: str


def plan(
    name: Annotated[str, Parameter(help="A network of the catalogue, or a bundle.")] = "xception",
    /,
    *,
    processes: Annotated[Count, Parameter(help="How many train together, or how many workers.")] = 60,
    network_gbit: Annotated[
        float,
        Bounds(0, 1e6, above=True),
        Parameter(help="Gigabits a second of each process's link, in each direction."),
    ] = 10.0,
    latency_ms: Annotated[
        float, Bounds(0, 1e4), Parameter(help="Milliseconds from one process to another, of any message.")
    ] = 0.05,
    step_seconds: Annotated[
        float | None,
        Bounds(0, 1e6, above=True),
        Parameter(
            help="Of one process alone, for --batch-size images, forward and backward [default: measured here, on "
            "--device]."
        ),
    ] = None,
    batch_size: Annotated[Count, Parameter(help="Images of a step: of a virtual shard, of a push.")] = 32,
    virtual_shards: Annotated[
        Count | None,
        Parameter(
            help="Parts of an update, a power of two [default: the number of processes, rounded up to one]."
        ),
    ] = None,
    servers: Annotated[
        Count | None,
        Parameter(help="Parameter servers of the asynchronous mode [default: as many as hold nobody up]."),
    ] = None,
    paper: Annotated[
        Literal["imagenet", "jft"],
        Parameter(help="The paper's training whose classes, recipe and samples are taken."),
    ] = "imagenet",
    samples: Annotated[
        Samples | None, Parameter(help="Images of the whole training [default: the paper's].")
    ] = None,
    size: Size = None,
    classes: Classes = None,
    settings: Settings = None,
    device: Annotated[
        str, Parameter(help="cpu, cuda, mps; auto takes an accelerator if there is one.")
    ] = "auto",
    json: Json = False,
) -> None:
    """Work out how long a training would take on 1, 2, 4, ... processes over a network, beside the paper's own.

    Bytes are those that synchronous training as it stands here sends; what is assumed is listed below the tables.

    Example: depthwise plan --processes 60 --network-gbit 10 --step-seconds 1
    """
    from depthwise.analysis.scaling import Link, Step

    about = _paper(paper)
    num_shards = _num_shards(about.recipe, processes, virtual_shards)
    subject = _subject(name, size, classes, settings or [], about)
    found = _traffic(subject)
    link = Link(network_gbit, latency_ms)
    where = "as given"
    if step_seconds is None:
        step_seconds, where = _measured(subject, replace(about.recipe, batch_size=batch_size), about, device)
    step = Step(step_seconds, batch_size)
    document = _document(found, step, link, processes, num_shards, servers, samples or about.samples, about)
    document = {
        "network": subject.name,
        "arguments": subject.arguments,
        **document,
        "assumptions": _assumptions(found, step, link, num_shards, where, about, samples),
    }
    if json:
        print_json(document)
    else:
        _print(document)


def _paper(name: str) -> Paper:
    from depthwise.comparison.setting import IMAGENET
    from depthwise.recipes import find_recipe

    if name == "imagenet":
        recipe = find_recipe("xception-imagenet")(IMAGENET)
        return Paper(
            traits=IMAGENET,
            recipe=recipe,
            samples=round(recipe.epochs * IMAGENET.num_train),
            mode="synchronous",
            days=3,
            said="about 3 days on 60 K80 GPUs, synchronous (Chollet 2017, section 4.5), 28 updates a second (Table 3)",
            length=f"{recipe.epochs:g} epochs of {IMAGENET.num_train:,} images, as in the recipe xception-imagenet: "
            f"the paper gives neither epochs nor batch",
        )
    jft = replace(IMAGENET, num_train=350_000_000, num_classes=17_000)
    recipe = find_recipe("xception-jft")(jft)
    return Paper(
        traits=jft,
        recipe=recipe,
        samples=recipe.samples,
        mode="asynchronous",
        days=30,
        said="over a month on 60 K80 GPUs, asynchronous, for 30 million updates, not converged; that would have taken "
        "over three months (Chollet 2017, section 4.5)",
        length=f"{recipe.samples // recipe.batch_size:,} updates of {recipe.batch_size} images, as in the recipe "
        f"xception-jft: the paper does not give the batch",
    )


def _num_shards(recipe: "Recipe", processes: int, asked: int | None) -> int:
    """The parts of an update, which so many processes can share."""
    from depthwise.train.world import shares

    num_shards = asked or 1 << (processes - 1).bit_length()
    replace(recipe, virtual_shards=num_shards)  # which says what is wrong
    shares(num_shards, processes)
    return num_shards


def _subject(name: str, size: str | None, classes: int | None, settings: list[str], about: Paper) -> Subject:
    """What is asked for; a network of the catalogue has the paper's classes unless it says other."""
    from depthwise.models import CATALOGUE

    subject = find_subject(name, size, classes, settings)
    if subject.layer:
        raise UsageError(f"{name} is a kind of layer: give a network")
    if name not in CATALOGUE:
        return subject
    return replace(subject, arguments={"num_classes": about.traits.num_classes, **subject.arguments})


def _traffic(subject: Subject) -> "Traffic":
    from depthwise.analysis.cost import cost
    from depthwise.analysis.scaling import traffic
    from depthwise.train.sums import in_buckets

    module, shape = build_subject(subject)
    return traffic(module, cost(module, shape), in_buckets(list(module.parameters())))


def _measured(subject: Subject, recipe: "Recipe", about: Paper, device: str) -> tuple[float, str]:
    """Seconds of an update on this machine, by the paper's recipe, and what was measured."""
    import torch

    from depthwise import native
    from depthwise.comparison.rehearsal import update_seconds
    from depthwise.comparison.setting import Scale, Setting
    from depthwise.train.run import choose_device, choose_precision

    on = choose_device(device)
    native.tune_allocator()
    _, (channels, height, width) = build_subject(subject)
    arguments = {**recipe.model_args, **subject.arguments}
    num_classes = arguments.pop("num_classes")
    arguments.pop("in_channels", None)
    recipe = replace(
        recipe,
        model=subject.name,
        model_args=arguments,
        preprocess=replace(recipe.preprocess, size=(height, width)),
    )
    traits = replace(about.traits, num_classes=num_classes)
    setting = Setting(Scale("paper", lambda _: recipe, traits), traits, channels)
    with status(f"measuring {UPDATES} updates of {recipe.batch_size} images"):
        taken = update_seconds(recipe, setting, on, UPDATES)
    threads = f", {number_of(torch.get_num_threads(), 'thread')}" if on.type == "cpu" else ""
    precision = choose_precision(recipe.precision, on)
    return taken, (
        f"the median of {UPDATES} updates here ({on}{threads}, {precision}), made-up images, their reading included"
    )


def _document(
    found: "Traffic",
    step: "Step",
    link: "Link",
    processes: int,
    num_shards: int,
    servers: int | None,
    samples: int,
    about: Paper,
) -> dict[str, Any]:
    """All that is worked out."""
    from depthwise.analysis.scaling import asynchronous, enough_servers, synchronous
    from depthwise.train.world import shares

    def days(row: "Synchronous | Asynchronous") -> dict[str, Any]:
        rate = row.images_per_second
        return {**asdict(row), "images_per_second": rate, "days": samples / rate / DAY}

    numbers = [*(1 << k for k in range((processes - 1).bit_length())), processes]
    servers = servers or enough_servers(found, step, link, processes)
    held = {number: max(share.count for share in shares(num_shards, number)) for number in numbers}
    return {
        "parameters": sum(found.tensors),
        "buckets": [asdict(bucket) for bucket in found.buckets],
        "step": asdict(step),
        "link": asdict(link),
        "virtual_shards": num_shards,
        "samples": samples,
        "synchronous": [
            days(synchronous(found, step, link, num_shards=num_shards, processes=number, held=held[number]))
            for number in numbers
        ],
        "asynchronous": [
            days(asynchronous(found, step, link, workers=number, servers=servers)) for number in numbers
        ],
        "paper": {
            "mode": about.mode,
            "said": about.said,
            "days": about.days,
            "samples": about.samples,
            "images_per_second": about.samples / about.days / DAY,
        },
    }


def _assumptions(
    found: "Traffic",
    step: "Step",
    link: "Link",
    num_shards: int,
    where: str,
    about: Paper,
    samples: int | None,
) -> list[str]:
    """What the figures rest on, a sentence each."""
    megabytes = 4e-6 * found.rest
    return [
        f"A step of {number_of(step.images, 'image')} takes a process alone {step.seconds:.4g} s: {where}.",
        "Two thirds of a step are its backward pass, which spends its time on layers by their multiply-adds. All "
        "processes are equally fast, and nobody waits for images.",
        f"Each process and each server has a link of its own, {link.gbit:g} Gbit/s in each direction at once and "
        f"{link.latency_ms:g} ms for each message that waits for another. Nothing else uses it, and headers "
        f"are not counted.",
        f"Synchronous: an update has {num_shards} x {step.images} = {num_shards * step.images:,} images on any number "
        f"of processes, and the same bits. A learning rate that was found with fewer images an update is not for it.",
        f"Gradients travel in float32, in {number_of(len(found.buckets), 'bucket')} one after another. Each process "
        f"sends (n - 1) / n of a bucket to those who own its slices, and as much of the sums. A bucket starts when the "
        f"backward pass of the process's last shard has made it; what is not there when that pass ends is waited for. "
        f"Batch norm's statistics and what else is added up, {megabytes:.2g} MB, travel after it.",
        "Asynchronous: a worker pulls all weights and running statistics, computes a step, and pushes as much; nothing "
        "of that is hidden, and every push is an update. Servers share whole tensors by their bytes. A link that is "
        "not full lets nobody wait.",
        f"{about.samples:,} samples are {about.length}."
        if samples is None
        else f"{samples:,} samples, as given.",
        "Copying and adding gradients, evaluations, checkpoints and restarts are not counted.",
    ]


Cells = dict[str, Callable[[dict[str, Any]], str]]

ENDS: Cells = {
    "efficiency": lambda row: f"{row['efficiency']:.0%}",
    "images/s": lambda row: pace(row["images_per_second"]),
    "days": lambda row: f"{row['days']:,.3g}" if row["days"] < 100 else f"{row['days']:,.0f}",
}

SYNCHRONOUS: Cells = {
    "processes": lambda row: str(row["processes"]),
    "shards each": lambda row: str(row["held"]),
    "sent an update, MB": lambda row: f"{row['sent_bytes'] / 1e6:,.1f}",
    "under way, s": lambda row: f"{row['travel_seconds']:.3g}",
    "hidden": lambda row: (
        f"{row['hidden_seconds'] / row['travel_seconds']:.0%}" if row["travel_seconds"] else ""
    ),
    "an update, s": lambda row: f"{row['update_seconds']:.4g}",
    **ENDS,
}

ASYNCHRONOUS: Cells = {
    "workers": lambda row: str(row["workers"]),
    "servers": lambda row: str(row["servers"]),
    "pull, MB": lambda row: f"{row['pull_bytes'] / 1e6:,.1f}",
    "push, MB": lambda row: f"{row['push_bytes'] / 1e6:,.1f}",
    "updates/s": lambda row: pace(row["updates_per_second"]),
    "fullest link": lambda row: f"{row['load']:.0%}",
    "staleness": lambda row: str(row["staleness"]),
    **ENDS,
}


def _print(document: dict[str, Any]) -> None:
    step, paper = document["step"], document["paper"]
    arguments = "".join(f", {key}={value}" for key, value in document["arguments"].items())
    say(
        f"{document['network']}{arguments}: {document['parameters']:,} parameters, {step['seconds']:.4g} s a step of "
        f"{number_of(step['images'], 'image')}, {document['link']['gbit']:g} Gbit/s, {document['samples']:,} samples"
    )
    for mode, cells in (("synchronous", SYNCHRONOUS), ("asynchronous", ASYNCHRONOUS)):
        rows = table(*cells, right=tuple(cells), title=mode)
        for row in document[mode]:
            rows.add_row(*(cell(row) for cell in cells.values()))
        console().print(rows)
    if uneven := _uneven(document["synchronous"][-1], document["virtual_shards"]):
        say(uneven)
    say(f"the paper: {paper['said']}")
    say(
        f"{paper['samples']:,} samples in {paper['days']} days are {pace(paper['images_per_second'])} images/s"
        + (f"; {document['samples']:,} would take {days:,.3g} days" if (days := _days(document)) else "")
    )
    say("assumed:")
    for sentence in document["assumptions"]:
        say(f"- {sentence}")


def _days(document: dict[str, Any]) -> float:
    """What another number of samples would have taken the paper; 0 for its own."""
    paper, samples = document["paper"], document["samples"]
    return 0.0 if samples == paper["samples"] else samples / paper["images_per_second"] / DAY


def _uneven(row: dict[str, Any], num_shards: int) -> str:
    """A sentence where some processes have more shards than others, for whom those wait."""
    processes, held = row["processes"], row["held"]
    if processes * held == num_shards:
        return ""
    few = num_shards // held
    return (
        f"{processes} processes share {num_shards} shards unevenly, some have {held} and all wait for these: {few} "
        f"processes are about as fast, {2 * few} twice as fast"
    )
