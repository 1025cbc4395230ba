"""What training scripts wrap around weights: other entries of a checkpoint, averages beside them, prefixes of names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.weights.layout import Layout
from depthwise.words import number_of

Choice = Literal["raw", "ema"]
CHOICES: tuple[Choice, ...] = ("raw", "ema")

MOST_WRAPPERS = 6
LEAVES = ("weight", "bias", "running_mean", "running_var")

# What scripts call the weights, and whose average is taken first, as timm does.
_STATE_DICTS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
)
_AVERAGES = ("state_dict_ema", "model_ema")
_AVERAGE = re.compile(r"(^|_)(ema|swa|averaged?|shadow)(_|$)")
# Lightning's WeightAveraging: state_dict is the average then.
_CURRENT = "current_model_state"
_COUNTER = "n_averaged"  # torch.optim.swa_utils' counter beside the averaged weights

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Unwrapped:
    """Tensors under the network's own names; `beside` are names outside the prefix, which are left out."""

    tensors: Tensors
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def unwrap(path: Path, loaded: Any, choice: Choice | None, layouts: Sequence[Layout]) -> Unwrapped:
    """The weights in `loaded`, which is what a file holds, as named tensors of a network like those of `layouts`.

    choice: of raw and averaged ("ema") weights; None takes the average if there is one, as timm does. Raises
    DepthwiseError, naming the file, if there are none or which is open.
    """
    places = _places(loaded)
    raw_place, average_place = _raw(path, places), _average(places)
    raw, averaged = _split(places[raw_place]) if raw_place is not None else ({}, {})
    if average_place is not None:
        averaged = places[average_place]
    elif averaged:
        average_place = next(iter(averaged)).partition(".")[0]
    elif any(name.rpartition(".")[2] == _COUNTER for name in raw):
        raw, averaged, average_place = {}, raw, "AveragedModel"
    if not raw and not averaged:
        raise DepthwiseError(f"{path} holds no tensors by name: save the network's state_dict")
    raws, averages = (_without_prefix(path, tensors, layouts) for tensors in (raw, averaged))
    if choice == "ema" and not averaged:
        raise DepthwiseError(
            f"{path} holds no averaged weights: name a file that has them, or leave --weights=ema out"
        )
    if choice == "raw" and not raw:
        raise DepthwiseError(
            f"{path} holds averaged weights alone ({average_place}): leave --weights=raw out"
        )
    if not averaged:
        return _with_notes(raws, *_nameless(loaded))
    if not raw:
        return _with_notes(
            averages, f"taken are averaged weights ({average_place}), the only ones in the file"
        )
    if choice == "raw":
        return raws
    if choice is None and not averages.tensors.keys() & raws.tensors.keys():
        return _with_notes(
            raws, f"the averaged weights ({average_place}) have other names and are passed over"
        )
    return _merged(raws, averages, str(average_place), raw_place or "the network itself", said=choice is None)


def _merged(raws: Unwrapped, averages: Unwrapped, average: str, raw: str, *, said: bool) -> Unwrapped:
    """The averages, and of what none is kept, such as the statistics of batch norms, the raw."""
    notes = [
        f"the file holds raw and averaged weights: taken are the averaged ones ({average}), as timm does; "
        f"--weights raw takes those of {raw}"
    ][: int(said)]
    lacking = [name for name in raws.tensors if name not in averages.tensors]
    if lacking:
        notes.append(
            f"{number_of(len(lacking), 'tensor')} of which no average is kept ({lacking[0]}) "
            f"{'is' if len(lacking) == 1 else 'are'} the raw"
        )
    tensors = {**raws.tensors, **averages.tensors}
    return _with_notes(Unwrapped(tensors, averages.notes, averages.beside), *notes)


def _with_notes(found: Unwrapped, *notes: str) -> Unwrapped:
    return Unwrapped(found.tensors, (*notes, *found.notes), found.beside)


def _places(loaded: Any) -> dict[str, Tensors]:
    """Every dict in `loaded` that has weights by name, by the keys that lead to it; "" is `loaded` itself."""
    found: dict[str, Tensors] = {}
    others: dict[str, Tensors] = {}
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), loaded)]
    while waiting:
        keys, value = waiting.pop(0)
        if not isinstance(value, Mapping) or len(keys) > MOST_WRAPPERS:
            continue
        tensors = {
            name: t.detach() for name, t in value.items() if isinstance(name, str) and isinstance(t, Tensor)
        }
        if any(name.rpartition(".")[2] in LEAVES for name in tensors):
            found[".".join(keys)] = tensors
        elif tensors and (not keys or keys[-1] in _STATE_DICTS):
            others[".".join(keys)] = tensors
        if id(value) in seen:  # the same object under two keys, or inside itself
            continue
        seen.add(id(value))
        waiting += [
            ((*keys, key), part)
            for key, part in value.items()
            if isinstance(key, str) and not key.startswith("optim")
        ]
    return found or others


def _raw(path: Path, places: Mapping[str, Tensors]) -> str | None:
    """Where the raw weights are: under a usual key, in the file itself, or under the only key that has some."""
    if _CURRENT in places:
        return _CURRENT
    plain = [place for place in places if not _is_average(place)]
    usual = [place for key in _STATE_DICTS for place in plain if place.partition(".")[0] == key]
    if usual or "" in plain:
        return usual[0] if usual else ""
    if len(plain) > 1:
        raise DepthwiseError(
            f"{path} holds tensors by name under {', '.join(plain[:4])}, and which are the network's is open: save "
            f"those alone"
        )
    return plain[0] if plain else None


def _average(places: Mapping[str, Tensors]) -> str | None:
    averages = [place for place in places if _is_average(place)]
    if _CURRENT in places and "state_dict" in places:
        averages.append("state_dict")
    first = [place for key in _AVERAGES for place in averages if place.partition(".")[0] == key]
    return next(iter([*first, *averages]), None)


def _is_average(place: str) -> bool:
    return any(_AVERAGE.search(key) for key in place.split("."))


def _nameless(loaded: Any) -> list[str]:
    """A remark on an average that is kept without names, as torch_ema does."""
    remarks = []
    for key, value in loaded.items():
        if isinstance(key, str) and _AVERAGE.search(key):
            parts = list(value.values()) if isinstance(value, Mapping) else [value]
            if any(
                isinstance(part, list | tuple) and any(isinstance(t, Tensor) for t in part) for part in parts
            ):
                remarks.append(f"the averaged weights ({key}) have no names and are passed over")
    return remarks


def _split(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """The raw and the averaged of a module that keeps both, as model.conv.weight and ema_model.conv.weight."""
    averaged = {n: t for n, t in tensors.items() if "." in n and _AVERAGE.search(n.partition(".")[0])}
    return {name: t for name, t in tensors.items() if name not in averaged}, averaged


def _without_prefix(path: Path, tensors: Tensors, layouts: Sequence[Layout]) -> Unwrapped:
    """The tensors without what stands before every name of the network's, whichever word that is."""
    tensors = {name: t for name, t in tensors.items() if name.rpartition(".")[2] != _COUNTER}
    prefix = _prefix(path, tensors, layouts)
    if not prefix:
        return Unwrapped(tensors)
    beside = tuple(name for name in tensors if not name.startswith(prefix))
    inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    but = f" but {beside[0]}" if beside else ""
    but += f" and {number_of(len(beside) - 1, 'other')}" if len(beside) > 1 else ""
    left = "; what stands beside is left out" if beside else ""
    note = f"all its names{but} stand under {prefix}, which is taken off{left}"
    return Unwrapped(inside, (note,), beside)


def _prefix(path: Path, tensors: Tensors, layouts: Sequence[Layout]) -> str:
    """That under which most modules of a network stand, and half of its modules at least; the shortest of several."""
    under: dict[str, set[str]] = {}
    for module in dict.fromkeys(name.rpartition(".")[0] for name in tensors):
        parts = module.split(".")
        for depth in range(min(len(parts), MOST_WRAPPERS + 1)):
            prefix = "".join(f"{part}." for part in parts[:depth])
            under.setdefault(prefix, set()).add(module[len(prefix) :])
    score = dict.fromkeys(under, 0)
    for layout in layouts:
        known = {pair[1] for pair in layout.pairs()}
        for prefix, modules in under.items():
            count = len(known & modules)
            if 2 * count >= len(known):
                score[prefix] = max(score[prefix], count)
    most = max(score.values(), default=0)
    best = sorted((prefix for prefix in score if most and score[prefix] == most), key=len)
    if len(best) > 1 and best[0]:
        raise DepthwiseError(
            f"{path} holds a network under {best[0]} and another under {best[1]}: save one of them alone"
        )
    return best[0] if best else ""
