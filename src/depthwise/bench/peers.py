"""The same architectures in timm and torchvision, which a plain loop trains beside this project's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from depthwise import native
from depthwise.models import create_model

PLAIN = "the same network on PyTorch's own operators"


@dataclass(frozen=True)
class Architecture:
    """What a loop trains: whose it is, the package that must be installed for it, and how it is made."""

    title: str
    package: str
    build: Callable[[], nn.Module]


TIMM = {
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v4": "inception_v4",
    "mobilenet_v1": "mobilenetv1_100",
    "se_resnet50": "legacy_seresnet50",
    "se_resnext50_32x4d": "legacy_seresnext50_32x4d",
    "senet154": "legacy_senet154",
    "xception": "legacy_xception",
}
"""Networks of the catalogue by timm's names."""

WITHOUT_TOWERS = {"aux_logits": False, "init_weights": False}

TORCHVISION: dict[str, tuple[str, dict[str, Any]]] = {
    "inception_v1": ("googlenet", WITHOUT_TOWERS),
    "inception_v3": ("inception_v3", WITHOUT_TOWERS),
    "mobilenet_v2": ("mobilenet_v2", {}),
    "resnet50": ("resnet50", {}),
    "resnet101": ("resnet101", {}),
    "resnet152": ("resnet152", {}),
    "resnext50_32x4d": ("resnext50_32x4d", {}),
    "resnext101_32x8d": ("resnext101_32x8d", {}),
    "vgg16": ("vgg16", {}),
    "vgg16_bn": ("vgg16_bn", {}),
}
"""Networks of the catalogue by torchvision's names, with the arguments that make them the same."""


def own(name: str, arguments: Mapping[str, Any]) -> Architecture:
    """The network of the catalogue."""
    return Architecture(f"depthwise's {name}", "depthwise", partial(create_model, name, **arguments))


def peer(name: str, arguments: Mapping[str, Any]) -> Architecture:
    """timm's or torchvision's; where neither has it with these arguments, the own one without native kernels."""
    classes, channels = arguments.get("num_classes", 1000), arguments.get("in_channels", 3)
    if not arguments.keys() - {"num_classes", "in_channels"}:
        if name in TIMM:
            return Architecture(
                f"timm's {TIMM[name]}", "timm", partial(_of_timm, TIMM[name], classes, channels)
            )
        if name in TORCHVISION and channels == 3:
            theirs, others = TORCHVISION[name]
            build = partial(_of_torchvision, theirs, classes, others)
            return Architecture(f"torchvision's {theirs}", "torchvision", build)
    return Architecture(PLAIN, "torch", partial(_without_kernels, name, arguments))


def _of_timm(name: str, classes: int, channels: int) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)


def _of_torchvision(name: str, classes: int, others: Mapping[str, Any]) -> nn.Module:
    from torchvision.models import get_model

    network: nn.Module = get_model(name, weights=None, num_classes=classes, **others)
    return network


def _without_kernels(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    native.use("off")  # of this process, which is the engine's own
    return create_model(name, **arguments)
