"""timm's networks: module paths as in timm.models, one entry an architecture (what stands before a name's dot).

To add a network: write a generator that yields (our module's path, theirs) for every module with tensors, the
first convolution first and the last linear layer as "classifier"; and an entry in LAYOUTS under timm's name, with
the arguments of our builder that its geometry needs. Where timm kept torchvision's paths, its generator serves
here too. Several entries may name the same network of ours: the one that a file fits best is taken. The
preprocessing is used for files without the hub's config.json beside them. A test then compares:

    weights, arguments = depthwise.weights.translate(theirs.state_dict(), source="timm", model="xception")
    ours = create_model("xception", **arguments)
    ours.load_state_dict(weights)
"""

from collections.abc import Iterator

from depthwise.data.transform import Preprocess
from depthwise.weights import torchvision
from depthwise.weights.layout import Layout, Pair
from depthwise.weights.torchvision import IMAGENET_MEAN, IMAGENET_STD, PYTORCH

IMAGENET = Preprocess((224, 224), 3, 0.875, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
INCEPTION = Preprocess((299, 299), 3, 0.875, "bicubic")
XCEPTION = Preprocess((299, 299), 3, 0.8975, "bicubic")


def legacy_xception() -> Iterator[Pair]:
    def separable(ours: str, theirs: str) -> Iterator[Pair]:
        yield f"{ours}.depthwise", f"{theirs}.conv1"
        yield f"{ours}.pointwise", f"{theirs}.pointwise"

    for i in (1, 2):
        yield f"stages.stem.{i - 1}.conv", f"conv{i}"
        yield f"stages.stem.{i - 1}.norm", f"bn{i}"
    blocks = [f"entry{i}" for i in (1, 2, 3)] + [f"middle.{i}" for i in range(8)] + ["exit.0"]
    for number, block in enumerate(blocks, start=1):
        middle = block.startswith("middle")
        # Theirs counts its ReLUs, separable convolutions and norms; the first block has no ReLU in front.
        start = 0 if number == 1 else 1
        for i in range(3 if middle else 2):
            yield from separable(f"stages.{block}.body.{i + 1}.conv", f"block{number}.rep.{start + 3 * i}")
            yield f"stages.{block}.body.{i + 1}.norm", f"block{number}.rep.{start + 3 * i + 1}"
        if not middle:
            yield f"stages.{block}.skip.conv", f"block{number}.skip"
            yield f"stages.{block}.skip.norm", f"block{number}.skipbn"
    for i in (1, 2):
        yield from separable(f"stages.exit.{i}.conv", f"conv{i + 2}")
        yield f"stages.exit.{i}.norm", f"bn{i + 2}"
    yield "classifier", "fc"


LAYOUTS: dict[str, Layout] = {
    "legacy_xception": Layout("xception", legacy_xception, XCEPTION, PYTORCH),
    "inception_v3": Layout(
        "inception_v3", torchvision.inception_v3, INCEPTION, aux=torchvision.inception_v3_aux
    ),
}
