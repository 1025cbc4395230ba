"""The end of a run: its final weights measured, and bundle, evaluation and report made of them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from depthwise.bundle import BundleConfig, read_bundle, write_bundle
from depthwise.data.dataset import Split, test_split
from depthwise.errors import DepthwiseError
from depthwise.evaluate.meters import Headline
from depthwise.evaluate.report import ReportData, write_report
from depthwise.heat import Look, looking
from depthwise.tasks import Task
from depthwise.train.asynchronous.order import asynchrony
from depthwise.train.checkpoint import load_checkpoint
from depthwise.train.files import RunFiles, write_json
from depthwise.train.recipe import Recipe, differences
from depthwise.train.record import read_lines
from depthwise.train.selection import is_enough, told
from depthwise.train.session import Progress, Session
from depthwise.train.together import all_bad_images
from depthwise.words import number_of


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run: its directory, and what the bundle's weights are worth on `split`.

    weights: "raw" or "averaged" of the last update, or "best"; `step` is the update they are of. evaluation: of the
    task's own kind, a `ClassEvaluation` where each image has one label.
    """

    out: Path
    split: str
    weights: str
    step: int
    evaluation: Any
    seconds: float

    def telling(self) -> dict[str, Any]:
        """What another process needs to know the same but for single images: plain values."""
        evaluation = self.evaluation
        return {
            **{name: getattr(self, name) for name in ("split", "weights", "step", "seconds")},
            "evaluation": evaluation.to_json(),
            "headline": asdict(evaluation.headline),
        }

    @staticmethod
    def told(out: Path, values: Mapping[str, Any]) -> "Result":
        """What `telling` told, of the run in `out`."""
        evaluation = Recorded(values["evaluation"], Headline(**values["headline"]))
        split, weights, step, seconds = (values[name] for name in ("split", "weights", "step", "seconds"))
        return Result(out, split, weights, step, evaluation, seconds)


@dataclass(frozen=True, eq=False)
class Recorded:
    """An evaluation as evaluation.json has it, `values`: without single images, each number an attribute."""

    values: Mapping[str, Any]
    headline: Headline

    @property
    def num_images(self) -> int:
        return int(self.values["images"])

    @property
    def numbers(self) -> Mapping[str, Any]:
        return self.values

    def to_json(self) -> dict[str, Any]:
        return dict(self.values)

    def __getattr__(self, name: str) -> Any:
        # Copy and pickle ask before there are values.
        if name.startswith("__") or name == "values":
            raise AttributeError(name)
        if name in self.values:
            return self.values[name]
        raise AttributeError(f"{name} is not in evaluation.json, which has {', '.join(self.values)}")


def what_is_left(files: RunFiles, recipe: Recipe) -> Result | None:
    """What the run by `recipe` came to, if it has ended and has left all that it should; else None."""
    if not (files.finished and files.evaluation.is_file() and files.checkpoint.is_file()):
        return None
    try:
        config, state = read_bundle(files.bundle).config, load_checkpoint(files.checkpoint).state
        # Both may be of a version that had no shards, which is one.
        done, asked = (
            {**r.to_json(), "virtual_shards": r.virtual_shards or 1}
            for r in (Recipe.from_json(state["recipe"]), recipe)
        )
        if differences(done, asked):
            return None
        step, scores = state["step"], Progress(**state["progress"]).scores
        whole = config.training["steps"] == step
        if not whole or (step < config.training["total_steps"] and not is_enough(recipe, scores)):
            return None
        values = json.loads(files.evaluation.read_text(encoding="utf-8"))
        split, weights, kept = (values.pop(name) for name in ("split", "weights", "kept"))
        evaluation = Recorded(values, config.build_task().headline)
        evaluation.headline.said(evaluation, str(evaluation.num_images))
        return Result(files.root, split, weights, kept["step"], evaluation, float(config.training["seconds"]))
    except (DepthwiseError, OSError, LookupError, TypeError, ValueError, AttributeError):
        return None  # what is damaged is told, or made anew, by who goes on


def finish_run(session: Session, facts: dict[str, Any]) -> Result:
    """Measure the final weights on the test part; write bundle, evaluation.json and, last of all, the report."""
    files, dataset, recipe = session.files, session.dataset, session.trainer.recipe
    name, split = test_split(dataset)
    # float32 whatever the training computed in: it is what prediction computes in.
    before = "" if recipe.precision == "float32" else f"; the evaluations so far were in {recipe.precision}"
    session.watcher.message(
        f"measuring the final weights on the {name} part ({number_of(len(split), 'image')}) in float32, as "
        f"predictions are made{before}"
    )
    final = session.final_weights()
    task = session.trainer.task
    if "val" in dataset.splits:
        shipped = list(final.values())[-1]
        task = task.tuned(lambda: session.measure(dataset.splits["val"], shipped, "float32"))
    measured = {kind: session.measure(split, module, "float32", task) for kind, module in final.items()}
    kind, evaluation = list(measured.items())[-1]
    kept = session.kept
    numbers = {"split": name, "weights": kind, "kept": kept, **evaluation.to_json()}
    result = Result(files.root, name, kind, kept["step"], evaluation, session.seconds)
    bad = all_bad_images(session.trainer)
    session.let_go(result.telling())  # the report may take long
    config = BundleConfig(
        model=recipe.model,
        model_args=recipe.model_args,
        classes=dataset.classes,
        preprocess=recipe.preprocess.for_channels(dataset.channels),
        task=task.name,
        task_args=dict(task.arguments),
        training={
            "recipe": recipe.name,
            "data": facts["data"]["spec"],
            "fingerprint": dataset.fingerprint,
            "seed": dataset.seed,
            "nested": dataset.nested,
            "decoding": dataset.decoding.to_json(),
            "columns": dataset.columns and dataset.columns.to_json(),
            "steps": session.trainer.step,
            "total_steps": session.trainer.total_steps,
            "seconds": round(result.seconds, 1),
            **{key: numbers[key] for key in ("split", "weights", "kept", *evaluation.numbers)},
        },
    )
    raw = session.trainer.module.state_dict() if kind == "averaged" else None
    write_bundle(
        files.bundle, config, final[kind].state_dict(), raw, examples_of=files.bundle, overwrite=True
    )
    write_json(files.evaluation, numbers)
    write_json(files.run, {**facts, "kept": kept})
    files.write_bad_images((*dataset.bad, *bad))
    for weights, tested in measured.items():
        values = {"split": name, "weights": weights, **tested.numbers}
        session.watcher.evaluated(session.write_line("test", values))
    look = looking(final[kind], config.preprocess)
    write_report(_report(session, facts, task, evaluation, name, split, look), files.report)
    session.say_findings()
    return result


def _report(
    session: Session,
    facts: dict[str, Any],
    task: Task,
    evaluation: Any,
    name: str,
    split: Split,
    look: Look | None,
) -> ReportData:
    files, dataset, recipe = session.files, session.dataset, session.trainer.recipe
    title = f"{recipe.model} on {dataset.name}"
    if not session.ended:
        so_far = f"unfinished, {session.trainer.step} of {session.trainer.total_steps} updates"
        title += f" ({so_far})"
        session.watcher.message(f"{files.root} is {so_far}: --resume goes on")
    used: dict[str, Any] = {"log_every": session.trainer.log_every}
    if recipe.keep == "auto":
        used["keep"] = "averaged" if recipe.averaging else "last"
    return ReportData(
        title=title,
        history=read_lines(files.metrics),
        classes=dataset.classes,
        evaluation=evaluation,
        split=name,
        findings=task.findings(evaluation, split, look),
        samples=task.samples(dataset.splits["train"]),
        counts=facts["data"]["counts"],
        cost=facts["cost"],
        recipe=facts["recipe"] | used,
        versions=facts["versions"],
        command=facts["command"],
        data=facts["data"],
        selection=told(
            recipe,
            task.headline,
            session.progress.scores,
            step=session.trainer.step,
            total_steps=session.trainer.total_steps,
            split=name,
        ),
        preprocess=asdict(recipe.preprocess.for_channels(dataset.channels)),
        resumes=facts.get("resumes", ()),
        page=task.page,
        asynchronous=asynchrony(files.pushes, facts.get("asynchronous")),
    )
