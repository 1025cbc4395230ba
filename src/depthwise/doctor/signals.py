"""What is measured of a run on its way: how far one update moved the weights, and what the network makes of a few of
its images.

Nothing here changes a weight, a statistic, a mode or the state of a generator: a run ends in the same bits without it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.modes import in_mode

MOST_IMAGES = 16
"""Of an update that are looked at."""

SHARE = 0.01
"""Of a run's time that looking takes at most."""

GROWTH = 1.5
"""From one moment to the next: the start of a run is where most goes wrong."""

NORMS = (nn.modules.batchnorm._BatchNorm,)
RELUS = (nn.ReLU, nn.ReLU6)


def moments(total_steps: int, log_every: int, batch_size: int) -> frozenset[int]:
    """The updates after which a run of `total_steps` is looked at, `batch_size` images each: some of those that have a
    line of metrics, among them the first and the last.

    Two passes of a few images without the training's fused operators take as long as an update does for so many; the
    moments between are so far apart that this is SHARE of all.
    """
    cost = 2 * min(MOST_IMAGES, batch_size) / batch_size  # in updates
    found, step = {1, total_steps}, 1
    while True:
        step = math.ceil(max(step * GROWTH, step + cost / SHARE) / log_every) * log_every
        if step >= total_steps:
            return frozenset(found)
        found.add(step)


def part_of(name: str) -> str:
    """The part of a network, a stage where it has stages, that the parameter or module `name` belongs to."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "stages" else first


class Weights:
    """A network's weights before an update."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before = {
            name: (parameter.detach(), parameter.detach().clone())
            for name, parameter in module.named_parameters()
        }

    @torch.no_grad()
    def movement(self) -> dict[str, float]:
        """How far the update moved those that are trained, as a share of their norm: `moved`, the median over parts,
        and `moved.<part>` of each; and `still`, the share of all numbers in tensors that did not move."""
        if not self._before:
            return {}
        names = [*self._before]
        now, before = (list(tensors) for tensors in zip(*self._before.values(), strict=True))
        changes = torch.stack(torch._foreach_norm(torch._foreach_sub(now, before))).tolist()
        norms = torch.stack(torch._foreach_norm(before)).tolist()
        sizes = [tensor.numel() for tensor in now]
        trained = {name: parameter.requires_grad for name, parameter in self._module.named_parameters()}
        parts: dict[str, tuple[float, float]] = {}
        for name, tensor, change, norm in zip(names, now, changes, norms, strict=True):
            if tensor.ndim > 1 and trained[name]:
                moved, size = parts.get(part_of(name), (0.0, 0.0))
                parts[part_of(name)] = moved + change**2, size + norm**2
        shares = {part: math.sqrt(moved / size) if size else 0.0 for part, (moved, size) in parts.items()}
        still = sum(size for size, change in zip(sizes, changes, strict=True) if change == 0)
        found = {"still": still / max(1, sum(sizes))}
        if shares:
            found["moved"] = sorted(shares.values())[len(shares) // 2]
        return found | {f"moved.{part}": share for part, share in shares.items()}


@dataclass(frozen=True, eq=False)
class View:
    """How images are looked at: by which loss and which count of hits, both of (output, targets); how many different
    answers an output holds; the output, float32 [K], that guesses the frequencies of the training part; in which
    precision; whether the run trains batch norms."""

    loss: Callable[[Tensor, Tensor], Tensor]
    hits: Callable[[Tensor, Tensor], Tensor]
    answers: Callable[[Tensor], int]
    guess: Tensor | None
    precision: Callable[[], AbstractContextManager[Any]]
    norms_learn: bool


def structure(module: nn.Module) -> dict[str, float]:
    """What of the network itself the causes ask for: how many layers have weights and how many batch norms there are,
    the lowest momentum of these, the share of the weights that are trained, the loss weight of auxiliary towers."""
    parts = [*module.modules()]
    norms = [part for part in parts if isinstance(part, NORMS)]
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    layers = {name.rpartition(".")[0] for name, parameter in module.named_parameters() if parameter.ndim > 1}
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    found: dict[str, float] = {
        "layers": len(layers),
        "norms": len(norms),
        "trained": trained / max(1, sum(weight.numel() for weight in weights)),
        "towers": float(getattr(module, "aux_weight", 0.0)) * len(getattr(module, "aux", ())),
    }
    if norms:
        found["momentum"] = min(0.0 if norm.momentum is None else float(norm.momentum) for norm in norms)
    return found


@torch.no_grad()
def examine(module: nn.Module, images: Tensor, targets: Tensor, view: View) -> dict[str, float]:
    """What `module` makes of `images`, float32 [N, C, h, w] of an update, with their `targets`.

    guess: the loss of guessing; loss, accuracy: with the statistics of these images in batch norms, as in training;
    eval_loss, eval_accuracy: with the running ones. answers: how many different ones it gives; spread: how much its
    features differ between images, as a share of their size. dead, dead.<part>: the share of the channels of ReLUs that
    are 0 for all images. input_mean, input_std; input_difference: the largest deviation of a pixel between images.
    """
    flat = images.float().flatten(1)
    found: dict[str, float] = {
        "images": len(images),
        "input_mean": float(flat.mean()),
        "input_std": float(flat.std(correction=0)),
        "input_difference": float(flat.std(0, correction=0).max()),
    }
    if view.guess is not None:
        found["guess"] = float(view.loss(view.guess.to(images.device).expand(len(images), -1), targets))
    norms: list[nn.Module] = [part for part in module.modules() if isinstance(part, NORMS)]
    dead: dict[str, tuple[int, int]] = {}
    features: list[Tensor] = []
    with in_mode(module, training=False), view.precision():
        with _statistics_of_images(norms if view.norms_learn else []), _watched(module, dead, features):
            output = module(images)
        evaluated = module(images) if norms and view.norms_learn else output
    for name, logits in (("", output), ("eval_", evaluated)):
        found[f"{name}loss"] = float(view.loss(logits, targets))
        found[f"{name}accuracy"] = float(view.hits(logits, targets)) / len(images)
        found[f"{name}answers"] = view.answers(logits)
    if features:
        size = float(features[0].square().mean().sqrt())
        found["spread"] = float(features[0].var(0, correction=0).mean().sqrt()) / size if size else 0.0
    if dead:
        silent, channels = (sum(counts) for counts in zip(*dead.values(), strict=True))
        found["dead"] = silent / channels
        found |= {f"dead.{part}": few / of for part, (few, of) in dead.items()}
    return found


@contextmanager
def _statistics_of_images(norms: list[nn.Module]) -> Iterator[None]:
    """The `norms` normalise by the images themselves, and their running statistics stay as they are."""
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
        for norm in norms:
            norm.eval()


@contextmanager
def _watched(module: nn.Module, dead: dict[str, tuple[int, int]], features: list[Tensor]) -> Iterator[None]:
    """Counts of each part the channels of ReLUs that are 0 everywhere, and all; keeps what the classifier is given."""

    def count(part: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            highest = output.detach().transpose(0, 1).flatten(1).amax(1)
            silent, channels = dead.get(part, (0, 0))
            dead[part] = silent + int((highest <= 0).sum()), channels + len(highest)

        return hook

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features.append(inputs[0].detach().float().flatten(1))

    hooks = [
        part.register_forward_hook(count(part_of(name)))
        for name, part in module.named_modules()
        if isinstance(part, RELUS)
    ]
    if isinstance(classifier := getattr(module, "classifier", None), nn.Module):
        hooks.append(classifier.register_forward_pre_hook(keep))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
