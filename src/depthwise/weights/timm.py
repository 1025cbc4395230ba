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

from collections.abc import Iterator, Sequence
from functools import partial

from depthwise.data.transform import Preprocess
from depthwise.weights import torchvision
from depthwise.weights.layout import Layout, Pair
from depthwise.weights.torchvision import DEPTHS, IMAGENET_MEAN, IMAGENET_STD, PYTORCH, VGG16, basic_conv

IMAGENET = Preprocess((224, 224), 3, 0.875, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
INCEPTION = Preprocess((299, 299), 3, 0.875, "bicubic")
INCEPTION_RESNET = Preprocess((299, 299), 3, 0.8975, "bicubic")
XCEPTION = Preprocess((299, 299), 3, 0.8975, "bicubic")
MOBILENET_V1 = Preprocess((224, 224), 3, 0.875, "bicubic")


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


def _conv_norm(ours: str, theirs: str, conv: str, norm: str) -> Iterator[Pair]:
    yield f"{ours}.conv", f"{theirs}{conv}"
    yield f"{ours}.norm", f"{theirs}{norm}"


def mobilenetv1(*, head: bool = False) -> Iterator[Pair]:
    yield from _conv_norm("stages.stem", "", "conv_stem", "bn1")
    for group, count in enumerate((1, 2, 2, 6, 2)):
        for i in range(count):
            ours, theirs = f"stages.separable{group + 1}.{i}", f"blocks.{group}.{i}."
            yield from _conv_norm(f"{ours}.0", theirs, "conv_dw", "bn1")
            yield from _conv_norm(f"{ours}.1", theirs, "conv_pw", "bn2")
    if head:
        yield from _conv_norm("stages.head", "", "conv_head", "bn2")
    yield "classifier", "classifier"


def mobilenetv2(counts: Sequence[int] = (1, 2, 3, 4, 3, 3, 1)) -> Iterator[Pair]:
    yield from _conv_norm("stages.stem", "", "conv_stem", "bn1")
    for group, count in enumerate(counts):
        # The first block does not expand, and its last convolution has another name.
        convs = ["conv_pw", "conv_dw", "conv_pwl"] if group else ["conv_dw", "conv_pw"]
        for i in range(count):
            ours = f"stages.bottleneck{group + 1}.{i}" + (".body" if i else "")
            for k, conv in enumerate(convs):
                yield from _conv_norm(f"{ours}.{k}", f"blocks.{group}.{i}.", conv, f"bn{k + 1}")
    yield from _conv_norm("stages.head", "", "conv_head", "bn2")
    yield "classifier", "classifier"


def mobilenetv2_deep(channels: Sequence[int], counts: Sequence[int]) -> Layout:
    """timm's own, deeper networks, with the published first and last convolution."""
    rows = zip((1, 6, 6, 6, 6, 6, 6), channels, counts, (1, 2, 2, 2, 1, 2, 1), strict=True)
    arguments = {**PYTORCH, "blocks": tuple(rows)}
    return Layout("mobilenet_v2", partial(mobilenetv2, counts), IMAGENET, arguments)


def senet(depths: Sequence[int], stem: int = 1) -> Iterator[Pair]:
    """The SE networks as released for Caffe, with `stem` convolutions in front."""
    for i in range(stem):
        yield f"stages.stem.{i}.conv", f"layer0.conv{i + 1}"
        yield f"stages.stem.{i}.norm", f"layer0.bn{i + 1}"
    yield from torchvision.bottlenecks(depths, ("se_module.fc1", "se_module.fc2"))
    yield "classifier", "last_linear"


def senet154() -> Iterator[Pair]:
    """SENet-154 in timm's own ResNet: three convolutions and their norms in one module, but for the last norm."""
    for i, norm in enumerate(("conv1.1", "conv1.4", "bn1")):
        yield f"stages.stem.{i}.conv", f"conv1.{3 * i}"
        yield f"stages.stem.{i}.norm", norm
    yield from torchvision.bottlenecks(DEPTHS["152"], ("se.fc1", "se.fc2"))
    yield "classifier", "fc"


def vgg(depths: Sequence[int], *, batch_norm: bool = False) -> Iterator[Pair]:
    yield from torchvision.vgg_blocks(depths, batch_norm)
    # Convolutions of 7x7 and 1x1, which see the flattened map of a picture of 224x224.
    yield "neck.2", "pre_logits.fc1", lambda weight: weight.flatten(1)
    yield "neck.5", "pre_logits.fc2", lambda weight: weight.flatten(1)
    yield "classifier", "head.fc"


def branches(ours: str, theirs: str, *places: str) -> Iterator[Pair]:
    """Convolutions of a module whose branches are numbered alike on both sides."""
    for place in places:
        yield from basic_conv(f"stages.{ours}.branches.{place}", f"{theirs}.branch{place}")


def inception_v4() -> Iterator[Pair]:
    for i in range(3):
        yield from basic_conv(f"stages.stem1.{i}", f"features.{i}")
    yield from basic_conv("stages.stem2.0.branches.1", "features.3.conv")
    yield from branches("stem2.1", "features.4", "0.0", "0.1", "1.0", "1.1", "1.2", "1.3")
    yield from basic_conv("stages.mixed5.0.branches.0", "features.5.conv")
    for i in range(1, 5):
        yield from branches(f"mixed5.{i}", f"features.{5 + i}", "0", "1.0", "1.1", "2.0", "2.1", "2.2", "3.1")
    yield from branches("mixed6.0", "features.10", "0", "1.0", "1.1", "1.2")
    for i in range(1, 8):
        places = ["0", *(f"1.{j}" for j in range(3)), *(f"2.{j}" for j in range(5)), "3.1"]
        yield from branches(f"mixed6.{i}", f"features.{10 + i}", *places)
    yield from branches("mixed7.0", "features.18", "0.0", "0.1", "1.0", "1.1", "1.2", "1.3")
    fork = {
        "0": "0",
        "1.0": "1_0",
        "1.1.branches.0": "1_1a",
        "1.1.branches.1": "1_1b",
        **{f"2.{j}": f"2_{j}" for j in range(3)},
        "2.3.branches.0": "2_3a",
        "2.3.branches.1": "2_3b",
        "3.1": "3.1",
    }
    for i in range(1, 4):
        for place, branch in fork.items():
            yield from basic_conv(f"stages.mixed7.{i}.branches.{place}", f"features.{18 + i}.branch{branch}")
    yield "classifier", "last_linear"


def inception_resnet_v2() -> Iterator[Pair]:
    def residual(ours: str, theirs: str, *places: str) -> Iterator[Pair]:
        yield from branches(f"{ours}.body.0", theirs, "0", "1.0", "1.1", *places)
        yield f"stages.{ours}.body.1", f"{theirs}.conv2d"

    for i, name in enumerate(["1a", "2a", "2b"]):
        yield from basic_conv(f"stages.stem1.{i}", f"conv2d_{name}")
    for i, name in enumerate(["3b", "4a"], start=1):
        yield from basic_conv(f"stages.stem2.{i}", f"conv2d_{name}")
    yield from branches("mixed5.1", "mixed_5b", "0", "1.0", "1.1", "2.0", "2.1", "2.2", "3.1")
    for i in range(10):
        yield from residual(f"mixed5.{2 + i}", f"repeat.{i}", "2.0", "2.1", "2.2")
    yield from branches("mixed6.0", "mixed_6a", "0", "1.0", "1.1", "1.2")
    for i in range(20):
        yield from residual(f"mixed6.{1 + i}", f"repeat_1.{i}", "1.2")
    yield from branches("mixed7.0", "mixed_7a", "0.0", "0.1", "1.0", "1.1", "2.0", "2.1", "2.2")
    for i in range(10):
        yield from residual(f"mixed7.{1 + i}", f"repeat_2.{i}" if i < 9 else "block8", "1.2")
    yield from basic_conv("stages.mixed7.11", "conv2d_7b")
    yield "classifier", "classif"


# Theirs, where the networks as released for Caffe are our default.
SERESNET = {"stride_in": "3x3", "pool": "symmetric"}

LAYOUTS: dict[str, Layout] = {
    "mobilenetv1_100": Layout("mobilenet_v1", mobilenetv1, MOBILENET_V1, PYTORCH),
    "mobilenetv1_100h": Layout(
        "mobilenet_v1", partial(mobilenetv1, head=True), MOBILENET_V1, {**PYTORCH, "head": 1024}
    ),
    "mobilenetv1_125": Layout("mobilenet_v1", mobilenetv1, MOBILENET_V1, {**PYTORCH, "width": 1.25}),
    "mobilenetv2_100": Layout("mobilenet_v2", mobilenetv2, IMAGENET, PYTORCH),
    **{
        f"mobilenetv2_{100 * width:03.0f}": Layout(
            "mobilenet_v2", mobilenetv2, IMAGENET, {**PYTORCH, "width": width}
        )
        for width in (0.35, 0.5, 0.75, 1.4)
    },
    "mobilenetv2_110d": mobilenetv2_deep((16, 24, 32, 72, 104, 176, 352), (1, 3, 4, 5, 4, 4, 1)),
    "mobilenetv2_120d": mobilenetv2_deep((24, 32, 40, 80, 112, 192, 384), (1, 3, 5, 6, 5, 5, 1)),
    "legacy_xception": Layout("xception", legacy_xception, XCEPTION, PYTORCH),
    "inception_resnet_v2": Layout("inception_resnet_v2", inception_resnet_v2, INCEPTION_RESNET),
    "inception_v3": Layout(
        "inception_v3", torchvision.inception_v3, INCEPTION, aux=torchvision.inception_v3_aux
    ),
    "inception_v4": Layout("inception_v4", inception_v4, INCEPTION),
    **{
        name: Layout(name, partial(torchvision.resnet, DEPTHS[depth]), IMAGENET)
        for name, depth in (
            ("resnet50", "50"),
            ("resnet101", "101"),
            ("resnet152", "152"),
            ("resnext50_32x4d", "50"),
            ("resnext101_32x8d", "101"),
        )
    },
    "seresnet50": Layout(
        "se_resnet50", partial(torchvision.resnet, DEPTHS["50"], ("se.fc1", "se.fc2")), IMAGENET, SERESNET
    ),
    "seresnext50_32x4d": Layout(
        "se_resnext50_32x4d",
        partial(torchvision.resnet, DEPTHS["50"], ("se.fc1", "se.fc2")),
        IMAGENET,
        SERESNET,
    ),
    "senet154": Layout("senet154", senet154, IMAGENET, SERESNET),
    "legacy_seresnet50": Layout("se_resnet50", partial(senet, DEPTHS["50"]), torchvision.IMAGENET),
    "legacy_seresnext50_32x4d": Layout(
        "se_resnext50_32x4d", partial(senet, DEPTHS["50"]), torchvision.IMAGENET
    ),
    "legacy_senet154": Layout("senet154", partial(senet, DEPTHS["152"], 3), torchvision.IMAGENET),
    "vgg16": Layout("vgg16", partial(vgg, VGG16), torchvision.IMAGENET),
    "vgg16_bn": Layout("vgg16_bn", partial(vgg, VGG16, batch_norm=True), torchvision.IMAGENET),
}
