"""An experiment in a directory: what was asked for, which runs that means, and where each of them lies."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from depthwise.comparison.experiment import Experiment
from depthwise.comparison.setting import Setting, find_scale
from depthwise.errors import DepthwiseError
from depthwise.recipes import Traits
from depthwise.train.asynchronous.simulation import Simulation
from depthwise.train.files import write_json
from depthwise.train.recipe import Recipe

FORMAT = 1


@dataclass(frozen=True)
class Asked:
    """What an experiment was asked for, as experiment.json keeps it.

    name: of the experiment; "compare" has its arms in `arms`. data: what the set is called, and `fingerprint`,
    `channels`, `traits`, what was seen of it. seeds: the first so many, from 0. kept: widths that were found for
    budgets. environment: what a run's bits depend on besides recipe and data. columns: how a manifest is read.
    """

    name: str
    scale: str
    data: str
    fingerprint: str
    channels: int
    traits: Mapping[str, Any]
    seeds: int
    environment: Mapping[str, str]
    columns: Mapping[str, Any] | None = None
    arms: Mapping[str, Any] | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> Setting:
        """What the experiment is built for."""
        kept = {key: tuple(v) if isinstance(v, list) else v for key, v in self.kept.items()}
        return Setting(find_scale(self.scale), Traits(**self.traits), self.channels, kept)


@dataclass(frozen=True)
class Place:
    """The paths of an experiment in the directory `root`, whose runs lie in `runs`."""

    root: Path
    runs: Path

    @property
    def asked(self) -> Path:
        return self.root / "experiment.json"

    @property
    def speed(self) -> Path:
        return self.root / "speed.json"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    def read(self) -> Asked | None:
        """What was asked for here before; None if nothing was. Raises DepthwiseError for what is damaged."""
        if not self.asked.exists():
            return None
        try:
            values = json.loads(self.asked.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError("it is of another version")
            values.pop("runs", None)
            asked = Asked(**values)
            find_scale(asked.scale)
            return asked
        except (OSError, ValueError, TypeError, KeyError, AttributeError, DepthwiseError) as error:
            raise DepthwiseError(
                f"{self.asked} cannot be read ({error}): remove it and run the experiment again, "
                f"which takes finished runs as they are"
            ) from None

    def write(self, asked: Asked) -> None:
        """Keep what is asked for; runs within `root` are named from there, so that both may be moved."""
        root, runs = self.root.absolute(), self.runs.absolute()
        kept = runs.relative_to(root) if runs.is_relative_to(root) else runs
        write_json(self.asked, {"format": FORMAT, "runs": str(kept), **asdict(asked)})


def place_of(root: Path, runs: Path | None = None) -> Place:
    """That of the directory `root`; `runs` as given, or as an experiment that is there has them."""
    usual = root / "runs"
    if runs is None:
        try:
            values = json.loads((root / "experiment.json").read_text(encoding="utf-8"))
            runs = root / values["runs"]
        except (OSError, ValueError, KeyError, TypeError):
            runs = usual
        if not runs.exists() and usual.exists():  # an earlier version named its own as they lay before a move
            runs = usual
    return Place(root, runs)


@dataclass(frozen=True)
class Planned:
    """A run of an arm, and its directory, which it shares with every equal run. simulate: of an asynchronous one."""

    arm: str
    seed: int
    recipe: Recipe
    out: Path
    simulate: Simulation | None = None

    @property
    def called(self) -> str:
        return f"{self.arm}, seed {self.seed}"


def planned(experiment: Experiment, asked: Asked, runs: Path) -> list[Planned]:
    """All runs, seed by seed, so that whoever stops early has whole pairs."""
    found = []
    for seed in range(asked.seeds):
        for arm in experiment.arms if experiment.trains else ():
            recipe = replace(arm.recipe, seed=seed)
            simulate = arm.simulate and replace(arm.simulate, seed=seed)
            out = runs / f"{recipe.model}-{digest(recipe, asked, simulate)}"
            found.append(Planned(arm.name, seed, recipe, out, simulate))
    return found


def digest(recipe: Recipe, asked: Asked, simulate: Simulation | None = None) -> str:
    """The same for runs that are equal to the bit: of the recipe, the data and all else that bits depend on."""
    # The recipe's name is where it came from, and changes nothing; nor does what is kept and what is computed again.
    values = {**recipe.to_json(), "name": ""}
    del values["recompute"]
    facts = [values, asked.fingerprint, dict(asked.environment), *([asdict(simulate)] if simulate else [])]
    text = json.dumps(facts, sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


def differences(before: Asked, now: Asked) -> list[str]:
    """What `now` asks otherwise than `before`, but for the number of seeds; empty if it is the same question."""
    named = (("the experiment", now.name, before.name), ("the scale", now.scale, before.scale))
    found = [f"{what} is {a}, and was {b}" for what, a, b in named if a != b]
    if before.fingerprint != now.fingerprint:
        other = before.data != now.data
        said = f"the data set is {now.data}, and was {before.data}"
        found.append(said if other else f"{now.data} has other images or labels")
    a, b = (json.loads(json.dumps({"columns": one.columns, "arms": one.arms})) for one in (now, before))
    if a["columns"] != b["columns"]:
        found.append("the manifest is read by other options")
    if a["arms"] != b["arms"] and before.name == now.name:
        found += _other_arms(a["arms"], b["arms"])
    return found


def _other_arms(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """How two comparisons of one's own differ, as experiments/own.py keeps them."""
    found = []
    if now["match"] != before["match"]:
        words = [match or "nothing" for match in (now["match"], before["match"])]
        found.append(f"what arms are brought to is {words[0]}, and was {words[1]}")
    for name in {**now["arms"], **before["arms"]}:
        arms = [one["arms"].get(name) for one in (now, before)]
        if None in arms:
            found.append(f"arm {name} is {'missing' if arms[0] is None else 'new'}")
        elif arms[0] != arms[1]:
            a, b = ({**arm.get("recipe", {}), **arm.get("settings", {})} for arm in arms)
            absent = "not set"
            found += [
                f"arm {name} has {key}={a.get(key, absent)}, and had {b.get(key, absent)}"
                for key in {**a, **b}
                if a.get(key, absent) != b.get(key, absent)
            ]
    return found or ["the arms are written otherwise"]


def outstanding(runs: Sequence[Planned]) -> list[Planned]:
    """The runs of different directories."""
    return list({run.out: run for run in runs}.values())
