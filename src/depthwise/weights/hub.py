"""Weights by name: from the caches that torchvision and timm fill, or from the network where there is one.

A cached file is what its publisher's name for it says (torchvision's names end in the hash) or is refused.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch
from torchvision import models
from torchvision.transforms import InterpolationMode

from depthwise import telemetry
from depthwise.data.transform import INTERPOLATIONS, Preprocess
from depthwise.errors import DepthwiseError, UsageError, unknown_name
from depthwise.weights.layout import Layout


@dataclass(frozen=True)
class Published:
    """Weights that are known by name: the file, whose network it is, and what goes in and comes out."""

    path: Path
    preprocess: Preprocess
    classes: tuple[str, ...] = ()


def from_torchvision(name: str, layouts: dict[str, Layout]) -> tuple[Published, Layout]:
    """`name` is resnet50, for torchvision's default weights of it, or resnet50.IMAGENET1K_V1."""
    architecture, _, version = name.partition(".")
    if architecture not in layouts:
        raise unknown_name("network of torchvision", architecture, layouts)
    versions = models.get_model_weights(architecture)
    if version and version not in versions.__members__:
        raise unknown_name(f"weights of torchvision's {architecture}", version, versions.__members__)
    weights = versions[version] if version else versions.DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(weights.url, str(path), _hash_in(path.name), progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise DepthwiseError(
                f"{name} is not in {path.parent} and cannot be fetched ({error}): put {weights.url} there"
            ) from None
    check_hash(path)
    return published(path, weights, layouts[architecture]), layouts[architecture]


def published(path: Path, weights: Any, layout: Layout) -> Published:
    """What torchvision's `weights` entry says of the file."""
    transform = weights.transforms()
    (size,), (resize,) = transform.crop_size, transform.resize_size
    preprocess = replace(
        layout.preprocess,
        size=(size, size),
        crop_fraction=size / resize,
        interpolation=InterpolationMode(transform.interpolation).value,
    )
    return Published(path, preprocess, tuple(weights.meta["categories"]))


def known_file(path: Path, architecture: str, layout: Layout) -> Published | None:
    """What is known of a file with the name under which torchvision publishes weights of the architecture."""
    for weights in models.get_model_weights(architecture):
        if weights.url.rpartition("/")[2] == path.name:
            check_hash(path)
            return published(path, weights, layout)
    return None


def check_hash(path: Path) -> None:
    """Raise DepthwiseError unless the file has the SHA-256 that its name begins (resnet50-0676ba61.pth)."""
    expected = _hash_in(path.name)
    if expected is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise DepthwiseError(
            f"{path} has the SHA-256 {found[:8]}..., not {expected} as published: remove it and fetch it again"
        )


def _hash_in(name: str) -> str | None:
    match = re.search(r"-([0-9a-f]{8,})\.", name)
    return match.group(1) if match else None


def from_timm(name: str) -> Path:
    """The folder with model.safetensors and config.json of timm/`name` on the Hugging Face hub, or in its cache."""
    if "." not in name:
        raise UsageError(
            f"timm:{name} lacks the tag of its weights: give it too, as in timm:legacy_xception.tf_in1k"
        )
    telemetry.switch_off()
    try:
        from huggingface_hub import hf_hub_download, hf_hub_url
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise DepthwiseError(
            "timm's weights by name need huggingface_hub: pip install 'depthwise[hub]', or give a file"
        ) from None
    repository = f"timm/{name}"
    paths = []
    for file in ("config.json", "model.safetensors"):
        try:
            try:
                paths.append(hf_hub_download(repository, file, local_files_only=True))
            except FileNotFoundError:
                # Without a network the hub's own client tries for half a minute.
                urlopen(Request(hf_hub_url(repository, file), method="HEAD"), timeout=10).close()
                paths.append(hf_hub_download(repository, file))
        except HFValidationError as error:
            raise UsageError(f"timm:{name} is no name of weights ({error}): look it up on the hub") from None
        except Exception as error:  # whatever the network's libraries raise
            reason = str(error).partition("\n")[0]
            raise DepthwiseError(
                f"{file} of {repository} is not in the hub's cache and cannot be fetched ({reason}): fetch the "
                f"repository where there is a network, and import the folder"
            ) from None
    return Path(paths[1]).parent


def timm_preprocess(config: dict[str, Any], default: Preprocess) -> Preprocess:
    """The preprocessing in the config.json of a timm repository; raises DepthwiseError if it is malformed."""
    values = config.get("pretrained_cfg", config)
    if not isinstance(values, dict) or "input_size" not in values:
        return default
    try:
        channels, height, width = values["input_size"]
        # timm rounds the size to resize to down, and so must the fraction that says it here.
        fraction = height / int(height / values.get("crop_pct", default.crop_fraction))
        interpolation = values.get("interpolation", default.interpolation)
        return Preprocess(
            (height, width),
            channels,
            min(fraction, 1.0),
            interpolation if interpolation in INTERPOLATIONS else "bicubic",
            tuple(values.get("mean", default.mean)),
            tuple(values.get("std", default.std)),
            stretch=values.get("crop_mode") == "squash",
        )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise DepthwiseError(
            f"the pretrained_cfg in config.json is malformed ({error}): fetch it again"
        ) from None
