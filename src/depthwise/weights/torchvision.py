"""torchvision's networks: module paths as in torchvision.models, preprocessing as in its first ImageNet weights.

To add a network: write a generator that yields (our module's path, theirs) for every module with tensors, the
first convolution first and the last linear layer as "classifier"; and an entry in LAYOUTS under torchvision's
name, with the arguments of our builder that its geometry needs. A third element of a pair, a function, changes the
weight on the way (a convolution that is a linear layer here: `lambda w: w.flatten(1)`). A test then compares:

    weights, arguments = depthwise.weights.translate(theirs.state_dict(), source="torchvision", model="inception_v3")
    ours = create_model("inception_v3", **arguments)
    ours.load_state_dict(weights)
"""

from collections.abc import Iterator, Sequence
from functools import partial

from depthwise.data.transform import Preprocess
from depthwise.weights.layout import Layout, Pair

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Preprocess((224, 224), 3, 224 / 256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# Inception V3 and V1 came from TensorFlow: the network itself turns ImageNet's mean and deviation into these.
INCEPTION = Preprocess((299, 299), 3, 299 / 342)
GOOGLENET = Preprocess((224, 224), 3, 224 / 256)

Gate = tuple[str, str]
"""Where a bottleneck has the two convolutions of its squeeze-and-excitation."""

# What torchvision's batch norms and strided windows are, where our default is TensorFlow's.
PYTORCH = {"norm_eps": 1e-5, "padding": "symmetric"}


def basic_conv(ours: str, theirs: str) -> Iterator[Pair]:
    """A convolution with batch norm, as a module of its own on both sides."""
    yield f"{ours}.conv", f"{theirs}.conv"
    yield f"{ours}.norm", f"{theirs}.bn"


def inception_v3() -> Iterator[Pair]:
    stem = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"]
    for i, name in enumerate(stem):
        yield from basic_conv(f"stages.stem1.{i}", name)
    for i, name in enumerate(["Conv2d_3b_1x1", "Conv2d_4a_3x3"], start=1):
        yield from basic_conv(f"stages.stem2.{i}", name)
    mixed5 = {
        "0": "branch1x1",
        "1.0": "branch5x5_1",
        "1.1": "branch5x5_2",
        "2.0": "branch3x3dbl_1",
        "2.1": "branch3x3dbl_2",
        "2.2": "branch3x3dbl_3",
        "3.1": "branch_pool",
    }
    mixed6 = {
        "0": "branch1x1",
        **{f"1.{i}": f"branch7x7_{i + 1}" for i in range(3)},
        **{f"2.{i}": f"branch7x7dbl_{i + 1}" for i in range(5)},
        "3.1": "branch_pool",
    }
    mixed7 = {
        "0": "branch1x1",
        "1.0": "branch3x3_1",
        "1.1.branches.0": "branch3x3_2a",
        "1.1.branches.1": "branch3x3_2b",
        "2.0": "branch3x3dbl_1",
        "2.1": "branch3x3dbl_2",
        "2.2.branches.0": "branch3x3dbl_3a",
        "2.2.branches.1": "branch3x3dbl_3b",
        "3.1": "branch_pool",
    }
    mixed6a = {"0": "branch3x3", **{f"1.{i}": f"branch3x3dbl_{i + 1}" for i in range(3)}}
    mixed7a = {
        "0.0": "branch3x3_1",
        "0.1": "branch3x3_2",
        **{f"1.{i}": f"branch7x7x3_{i + 1}" for i in range(4)},
    }
    modules = [
        *((f"mixed5.{i}", f"Mixed_5{letter}", mixed5) for i, letter in enumerate("bcd", start=1)),
        ("mixed6.0", "Mixed_6a", mixed6a),
        *((f"mixed6.{i}", f"Mixed_6{letter}", mixed6) for i, letter in enumerate("bcde", start=1)),
        ("mixed7.0", "Mixed_7a", mixed7a),
        *((f"mixed7.{i}", f"Mixed_7{letter}", mixed7) for i, letter in enumerate("bc", start=1)),
    ]
    for ours, theirs, branches in modules:
        for place, branch in branches.items():
            yield from basic_conv(f"stages.{ours}.branches.{place}", f"{theirs}.{branch}")
    yield "classifier", "fc"


def inception_v3_aux() -> Iterator[Pair]:
    yield from basic_conv("aux.mixed6.features.0", "AuxLogits.conv0")
    yield from basic_conv("aux.mixed6.features.1", "AuxLogits.conv1")
    yield "aux.mixed6.classifier", "AuxLogits.fc"


def mobilenet_v2() -> Iterator[Pair]:
    def conv_norm(ours: str, conv: str, norm: str) -> Iterator[Pair]:
        yield f"{ours}.conv", f"features.{conv}"
        yield f"{ours}.norm", f"features.{norm}"

    yield from conv_norm("stages.stem", "0.0", "0.1")
    number = 0
    for group, count in enumerate((1, 2, 3, 4, 3, 3, 1), start=1):
        for i in range(count):
            number += 1
            ours = f"stages.bottleneck{group}.{i}" + (".body" if i else "")
            # The first block does not expand.
            last = 1 if number == 1 else 2
            for k in range(last):
                yield from conv_norm(f"{ours}.{k}", f"{number}.conv.{k}.0", f"{number}.conv.{k}.1")
            yield from conv_norm(f"{ours}.{last}", f"{number}.conv.{last}", f"{number}.conv.{last + 1}")
    yield from conv_norm("stages.head", "18.0", "18.1")
    yield "classifier", "classifier.1"


def resnet(depths: Sequence[int], gate: Gate | None = None) -> Iterator[Pair]:
    """Also ResNeXt; and timm's of the same names, of which the SE networks have a gate."""
    yield "stages.stem.0.conv", "conv1"
    yield "stages.stem.0.norm", "bn1"
    yield from bottlenecks(depths, gate)
    yield "classifier", "fc"


def bottlenecks(depths: Sequence[int], gate: Gate | None) -> Iterator[Pair]:
    for stage, depth in enumerate(depths, start=1):
        for i in range(depth):
            ours, theirs = f"stages.stage{stage}.{i}", f"layer{stage}.{i}"
            for conv in range(3):
                yield f"{ours}.body.{conv}.conv", f"{theirs}.conv{conv + 1}"
                yield f"{ours}.body.{conv}.norm", f"{theirs}.bn{conv + 1}"
            if gate:
                yield f"{ours}.body.3.squeeze", f"{theirs}.{gate[0]}"
                yield f"{ours}.body.3.excite", f"{theirs}.{gate[1]}"
            if i == 0:
                yield f"{ours}.skip.conv", f"{theirs}.downsample.0"
                yield f"{ours}.skip.norm", f"{theirs}.downsample.1"


def vgg(depths: Sequence[int], *, batch_norm: bool = False) -> Iterator[Pair]:
    yield from vgg_blocks(depths, batch_norm)
    yield "neck.2", "classifier.0"
    yield "neck.5", "classifier.3"
    yield "classifier", "classifier.6"


def vgg_blocks(depths: Sequence[int], batch_norm: bool) -> Iterator[Pair]:
    place = 0
    for block, depth in enumerate(depths, start=1):
        for i in range(depth):
            yield f"stages.block{block}.{i}.conv", f"features.{place}"
            if batch_norm:
                yield f"stages.block{block}.{i}.norm", f"features.{place + 1}"
            place += 3 if batch_norm else 2  # a ReLU behind each
        place += 1  # the pooling


def googlenet() -> Iterator[Pair]:
    for ours, theirs in {"stem1.0": "conv1", "stem2.1": "conv2", "stem2.2": "conv3"}.items():
        yield from basic_conv(f"stages.{ours}", theirs)
    places = {"mixed3.1": "3a", "mixed3.2": "3b", "mixed4a.1": "4a"}
    places |= {f"mixed4d.{i}": f"4{letter}" for i, letter in enumerate("bcd")}
    places |= {"mixed4e.0": "4e", "mixed5.1": "5a", "mixed5.2": "5b"}
    branches = {"0": "1", "1.0": "2.0", "1.1": "2.1", "2.0": "3.0", "2.1": "3.1", "3.1": "4.1"}
    for ours, theirs in places.items():
        for place, branch in branches.items():
            yield from basic_conv(f"stages.{ours}.branches.{place}", f"inception{theirs}.branch{branch}")
    yield "classifier", "fc"


def googlenet_aux() -> Iterator[Pair]:
    for ours, theirs in {"aux.mixed4a": "aux1", "aux.mixed4d": "aux2"}.items():
        yield from basic_conv(f"{ours}.features", f"{theirs}.conv")
        yield f"{ours}.hidden", f"{theirs}.fc1"
        yield f"{ours}.classifier", f"{theirs}.fc2"


DEPTHS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
VGG16 = (2, 2, 3, 3, 3)

LAYOUTS: dict[str, Layout] = {
    "googlenet": Layout("inception_v1", googlenet, GOOGLENET, aux=googlenet_aux),
    "mobilenet_v2": Layout("mobilenet_v2", mobilenet_v2, IMAGENET, PYTORCH),
    "inception_v3": Layout("inception_v3", inception_v3, INCEPTION, aux=inception_v3_aux),
    **{
        name: Layout(name, partial(resnet, DEPTHS[depth]), IMAGENET)
        for name, depth in (
            ("resnet50", "50"),
            ("resnet101", "101"),
            ("resnet152", "152"),
            ("resnext50_32x4d", "50"),
            ("resnext101_32x8d", "101"),
        )
    },
    "vgg16": Layout("vgg16", partial(vgg, VGG16), IMAGENET),
    "vgg16_bn": Layout("vgg16_bn", partial(vgg, VGG16, batch_norm=True), IMAGENET),
}
