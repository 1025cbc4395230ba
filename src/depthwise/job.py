"""A run as a value: what is asked for in plain values, and how it becomes a finished run directory.

What cannot be is refused before that which takes long is imported.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from depthwise.errors import DepthwiseError, UsageError, unknown_name
from depthwise.finished import Run
from depthwise.models import CATALOGUE, model_arguments
from depthwise.places import absolute, check_types, find_bundle
from depthwise.train.asynchronous.asking import check_asked, order_asked
from depthwise.train.asynchronous.service import Service
from depthwise.train.asynchronous.simulation import Simulation
from depthwise.train.options import Options

if TYPE_CHECKING:
    from depthwise.bundle import Bundle
    from depthwise.data.columns import Columns
    from depthwise.data.dataset import Dataset
    from depthwise.train.asynchronous.crew import Hire
    from depthwise.train.ending import Result
    from depthwise.train.recipe import Recipe
    from depthwise.train.session import Watcher
    from depthwise.train.world import World


How = Literal["start", "resume", "finish"]


@dataclass(frozen=True)
class Job:
    """What a run is asked for; nothing is opened or built before it is done.

    out: the run's directory. data: what `open_dataset` takes, or a Dataset; None where the run in `out` knows.
    model: a network of the catalogue; None takes the recipe's, or that of `init`.
    recipe: a published one's name, or a Recipe. settings: pairs for `Recipe.with_settings`.
    init: the bundle whose network and weights to start from. minutes: instead of epochs, see `train/budget.py`.
    skip_bad: leave out any number of unreadable images. nested: classes are paths.
    max_pixels, allow_truncated: see `Decoding`; None as the run in `out` has it. columns: how a manifest is read.
    simulate: asynchronous workers that are made up. asynchronous: real ones, on the Ray cluster at the address `ray`.
    replay: the log of an asynchronous run that is done again.
    """

    out: str | os.PathLike[str]
    data: str | os.PathLike[str] | Dataset | None = None
    model: str | None = None
    recipe: str | Recipe | None = None
    settings: Sequence[tuple[str, Any]] = ()
    init: str | os.PathLike[str] | None = None
    minutes: float | None = None
    skip_bad: bool = False
    nested: bool = False
    max_pixels: int | None = None
    allow_truncated: bool | None = None
    columns: Columns | None = None
    options: Options = field(default_factory=Options)
    simulate: Simulation | None = None
    replay: str | os.PathLike[str] | None = None
    asynchronous: Service | None = None
    ray: str | None = None

    def do(self, how: How = "start", *, force: bool = False, watcher: Watcher | None = None) -> Run:
        """Start the run, resume the one in `out` from its last checkpoint, or finish it: see `train.run.train`.

        With `options.processes` it is trained by so many on this machine; where torchrun started this process, by all
        that it started. One of them leads and does all that concerns files; on the others this returns the same.
        """
        self._check(how)
        if self.ray and not self._has_crew(how):
            return self._on_ray(how, force=force, watcher=watcher)
        from depthwise.modes import threads_kept
        from depthwise.train.world import with_others

        with threads_kept(), self._hiring() as hire:
            lead = partial(self._lead, how, force=force, watcher=watcher, hire=hire)
            return with_others(self.options, lead, partial(_follow, self))

    def _hiring(self) -> AbstractContextManager[Hire | None]:
        """What makes the crew of an asynchronous run on a cluster, which is there from now on."""
        if self.ray is None:
            return nullcontext()
        from depthwise.ship.helping import hiring

        return hiring(self.ray, self.open_data, self.options)

    def _has_crew(self, how: How) -> bool:
        """Whether what a cluster does for the run is asynchronous."""
        from depthwise.train.files import RunFiles

        if how == "start":
            return self.asynchronous is not None
        return "service" in (RunFiles(Path(self.out)).read_run().get("asynchronous") or {})

    def _on_ray(self, how: How, *, force: bool, watcher: Watcher | None) -> Run:
        """Do it by processes of the Ray cluster at the address `ray`, which see the same files."""
        from depthwise.cluster.training import Part, train_on_ray
        from depthwise.train.ending import Result
        from depthwise.train.progress import TrainProgress

        there = self.everywhere()
        part = Part(partial(_lead_and_tell, there, how, force), partial(_follow, there), self.options)
        watcher = watcher or TrainProgress()
        try:
            return Run(self, Result.told(Path(self.out), train_on_ray(self.ray or "", part, watcher)))
        finally:
            watcher.close()

    def everywhere(self) -> Job:
        """The same job from whatever directory of whatever machine that has the same files."""
        data = absolute(self.data) if isinstance(self.data, str | os.PathLike) else self.data
        init = None if self.init is None else os.path.abspath(self.init)
        return replace(self, out=os.path.abspath(self.out), data=data, init=init, ray=None)

    def _lead(
        self, how: How, world: World, *, force: bool, watcher: Watcher | None, hire: Hire | None
    ) -> Run:
        """Do it as the process that leads `world`."""
        if how == "start" and self._begun_before():
            how = "resume"
        bundle = before = recipe = order = None
        if how == "start":
            bundle = self._bundle()
            order, recipe = order_asked(self.simulate, self.asynchronous, self.replay, alone=world.alone)
        else:
            before, recipe = self._before()
        self._check_settings(recipe.model if recipe else bundle.config.model if bundle else self.model)
        known = before["data"] if before else {}
        from depthwise.recipes import Traits
        from depthwise.ship.helping import set_threads
        from depthwise.ship.starting import recipe_for
        from depthwise.train.progress import TrainProgress
        from depthwise.train.run import train as carry_out

        watcher = watcher or TrainProgress()
        set_threads(self.asynchronous, before)
        try:
            self._check_start(how, recipe, bundle, force=force)
            if how == "resume" and recipe and (ended := self._ended(known, recipe, watcher)):
                world.lead("end", ended.telling())
                return Run(self, ended)
            world.lead("open", {"data": known, "threads": torch.get_num_threads()})
            dataset = self.open_data(known, watcher)
            world.meet()
            chosen = self._settled(recipe or recipe_for(self.recipe, Traits.of(dataset), self.model, bundle))
            if dataset.deep and (text := dataset.deep.note(chosen.preprocess.white_level)):
                watcher.message(text)
            result = carry_out(
                chosen,
                self._built(chosen, dataset, bundle, before, watcher),
                dataset,
                Path(self.out),
                options=self._options(how, known),
                resume=how == "resume",
                finish=how == "finish",
                force=force,
                minutes=self.minutes,
                watcher=watcher,
                world=world,
                order=order,
                hire=hire,
            )
        finally:
            watcher.close()
        return Run(self, result)

    def _begun_before(self) -> bool:
        """Whether the run in `out` is this one, which torchrun has started again after a process failed."""
        from depthwise.train.world import launch

        if launch() is None:
            return False
        from depthwise.train.files import RunFiles

        return RunFiles(Path(self.out)).begun_by(launch())

    def _check(self, how: How) -> None:
        """Refuse what contradicts itself, or is not there, before the images are looked over."""
        check_types(self.out, self.data, self.model, self.recipe)
        names = [key for key, _ in self.settings]
        chosen = bool(self.recipe or self.model or names)
        if self.options.fewest and not self.ray:
            raise UsageError("--processes MIN:MAX are those of a cluster: add --ray, or give one number")
        num_shards = dict(self.settings).get("virtual_shards", getattr(self.recipe, "virtual_shards", 0))
        if isinstance(num_shards, int) and num_shards > 0:
            from depthwise.train.world import shares

            shares(num_shards, self.options.fewest or self.options.processes)
        orders = (self.simulate, self.asynchronous, self.replay, self.ray)
        check_asked(*orders, how=how, minutes=self.minutes, chosen=chosen)
        if how == "finish" and (self.recipe or self.model or self.init or names):
            raise UsageError(
                "--finish takes the run in --out as it is: leave --resume, --init, --recipe, --model and settings out"
            )
        if self.minutes is not None:
            from depthwise.train.budget import check_minutes

            check_minutes(self.minutes, resume=how != "start")
        if self.minutes is not None and (length := {"epochs", "samples"} & {*names}):
            raise UsageError(
                f"--minutes takes as many epochs as fit, and {length.pop()} asks for a number: leave one of them out"
            )
        if how != "start" and (self.recipe or self.model):
            raise UsageError(
                "--resume goes on with the run's recipe and network: leave --recipe and --model out"
            )
        if how != "start" and self.init:
            raise UsageError("--resume goes on with the run's own weights: leave --init out")
        if how == "start" and dict(self.settings).get("freeze") is True and not self.init:
            raise UsageError(
                "--freeze trains the classifier alone, on a network that knows nothing: add --init BUNDLE"
            )

    def _bundle(self) -> Bundle | None:
        """What a new run starts from. What takes the least to find out is refused first."""
        if self.data is None:
            raise UsageError(
                "--data is missing: name a folder of images, a manifest, or digits or fashion-mnist"
            )
        if isinstance(self.data, str | os.PathLike):
            absolute(self.data)
        if self.init is not None:
            find_bundle(self.init)
        if self.model is not None and self.model not in CATALOGUE:
            raise unknown_name("model", self.model, CATALOGUE)
        from depthwise.recipes import find_recipe

        if self.recipe is None or isinstance(self.recipe, str):
            find_recipe(self.recipe)
        if self.init is None:
            return None
        from depthwise.bundle import read_bundle

        bundle = read_bundle(self.init)
        if self.model not in (None, bundle.config.model):
            raise UsageError(
                f"{bundle.path} holds weights of {bundle.config.model}, not of {self.model}: leave --model out"
            )
        return bundle

    def _before(self) -> tuple[dict[str, Any], Recipe]:
        """What run.json says of the run in `out`."""
        from depthwise.train.files import RunFiles
        from depthwise.train.recipe import Recipe

        before = RunFiles(Path(self.out)).read_run()
        recipe = Recipe.from_json(before["recipe"])
        if recipe.model not in CATALOGUE:
            raise DepthwiseError(f"{self.out}/run.json: {unknown_name('model', recipe.model, CATALOGUE)}")
        return before, recipe

    def _check_settings(self, model: str | None) -> None:
        """Refuse what no recipe has, nor the network, as soon as that is known; None: which only the data decide."""
        from depthwise.train.recipe import check_settings

        models = CATALOGUE if model is None else [model]
        check_settings(
            (key for key, _ in self.settings), {name for model in models for name in model_arguments(model)}
        )

    def _check_start(self, how: How, recipe: Recipe | None, bundle: Bundle | None, *, force: bool) -> None:
        """Refuse what could not begin or not be written, before the images are looked over."""
        from depthwise.ship.starting import check_settled
        from depthwise.train.files import RunFiles
        from depthwise.train.run import choose_device

        choose_device(self.options.device)
        if how == "start":
            RunFiles(Path(self.out)).check_free(force=force)
        if how == "start" or self.settings:
            check_settled(recipe or self.recipe, self.model, bundle, self._settled)

    def _ended(self, known: dict[str, Any], recipe: Recipe, watcher: Watcher) -> Result | None:
        """What the run in `out` has come to, if nothing is left of it to do."""
        from depthwise.train.ending import what_is_left
        from depthwise.train.files import RunFiles

        if isinstance(self.data, str | os.PathLike):
            same = self._spec(known) == known["spec"]
        else:
            same = getattr(self.data, "fingerprint", known["fingerprint"]) == known["fingerprint"]
        ended = what_is_left(RunFiles(Path(self.out)), self._settled(recipe)) if same else None
        if ended:
            watcher.message(
                f"{self.out} had ended already, and came to what follows; --set epochs=N trains on, up to N epochs"
            )
        return ended

    def _spec(self, known: dict[str, Any]) -> str:
        """The data set's name, the same from whatever directory: a run is resumed from other ones too."""
        spec = known["spec"] if self.data is None else self.data
        assert isinstance(spec, str | os.PathLike)
        return absolute(spec)

    def _options(self, how: How, known: dict[str, Any]) -> Options:
        if not isinstance(self.data, str | os.PathLike | None):  # which no command line can name
            return self.options
        return replace(
            self.options, spec=self._spec(known), command=self.options.command or self._command(how)
        )

    def _command(self, how: How) -> list[str]:
        """What does the same from a shell, as far as it can be written there."""
        named = {"--data": self.data, "--model": self.model, "--recipe": self.recipe, "--init": self.init}
        if not isinstance(self.recipe, str | None):
            named["--recipe"] = self.recipe.name
        words = ["depthwise", "train", "--out", os.fspath(self.out)]
        numbers = {"--minutes": self.minutes, "--max-pixels": self.max_pixels}
        for option, value in {**named, "--replay": self.replay, "--ray": self.ray, **numbers}.items():
            words += [] if value is None else [option, str(value)]
        flags = {
            "--skip-bad": self.skip_bad,
            "--nested": self.nested,
            "--allow-truncated": self.allow_truncated,
            f"--{how}": how != "start",
        }
        words += [option for option, given in flags.items() if given]
        words += self.columns.words() if self.columns else []
        words += ["--simulate", *self.simulate.words.split()] if self.simulate else []
        words += ["--asynchronous", *self.asynchronous.words.split()] if self.asynchronous else []
        return words + [word for key, value in self.settings for word in ("--set", f"{key}={value}")]

    def open_data(self, known: dict[str, Any], watcher: Watcher) -> Dataset:
        """The data set; divided, and its classes named, as in the run that goes on, which has `known` it."""
        from depthwise.data.dataset import Dataset, require_trainable
        from depthwise.data.image import Decoding
        from depthwise.data.remarks import worth_saying
        from depthwise.data.sources.open import open_dataset
        from depthwise.data.sources.source import MAX_BAD_FRACTION

        if isinstance(self.data, Dataset):
            require_trainable(self.data)
            return self.data
        spec, seed = self._spec(known), known.get("seed")
        dataset = open_dataset(
            spec,
            seed=seed if type(seed) is int else 0,
            workers=max(1, self.options.workers),
            progress=watcher.looking,
            max_bad=1.0 if self.skip_bad else MAX_BAD_FRACTION,
            nested=self.nested or known.get("nested") is True,
            decoding=Decoding.asked(
                known.get("decoding"), max_pixels=self.max_pixels, allow_truncated=self.allow_truncated
            ),
            columns=self.columns,
            kept_columns=known.get("columns"),
        )
        for text in worth_saying(dataset, spec, resumed=bool(known)):
            watcher.message(text)
        require_trainable(dataset)
        return dataset

    def _settled(self, recipe: Recipe) -> Recipe:
        return recipe.with_settings(self.settings, model_arguments(recipe.model))

    def _built(
        self,
        recipe: Recipe,
        dataset: Dataset,
        bundle: Bundle | None,
        before: dict[str, Any] | None,
        watcher: Watcher,
    ) -> nn.Module:
        from depthwise.ship.starting import network_for

        try:
            return network_for(recipe, dataset, bundle, watcher.message)
        except UsageError as error:
            if not before or self.settings:
                raise
            raise DepthwiseError(f"{self.out}/run.json: {error}") from None


def _lead_and_tell(job: Job, how: How, force: bool, world: World, watcher: Watcher) -> dict[str, Any]:
    """What a process does that leads others on other machines; plain values of what came of it."""
    return job._lead(how, world, force=force, watcher=watcher, hire=None).result.telling()


def _follow(job: Job, world: World) -> Run:
    """What a process does that does not lead."""
    from depthwise.ship.helping import train_along
    from depthwise.train.ending import Result

    return Run(job, Result.told(Path(job.out), train_along(job.open_data, job.options, world)))
