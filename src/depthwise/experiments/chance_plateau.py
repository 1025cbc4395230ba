"""Why a run sits at the accuracy of guessing for a while, and what gets it going.

A reader's question on the paper (Chollet 2017, section 4.6): Xception without residual connections stays at 1/classes
before it moves. Depth, residual connections, batch norm, learning rate, warm-up and initialisation are changed one at
a time; what is measured is the update from which on the network answers at least twice as well as guessing. He 2015
(arXiv 1502.01852) found that plain networks of 30 layers drawn with one deviation for all do not begin at all.
"""

from dataclasses import replace

from depthwise.comparison.claims import Better
from depthwise.comparison.experiment import Arm, Dots, Experiment
from depthwise.comparison.outcome import Metric, Outcome
from depthwise.comparison.setting import Setting
from depthwise.train.optimizer import Constant, Linear
from depthwise.train.recipe import Recipe

SHORT, SAMPLES_OF = 6, 64  # a sixth of the scale's run; the batch, for more updates in it
DEEP = 12  # blocks of three convolutions


def begins(outcome: Outcome) -> float:
    """The first update from which on all windows are twice as often right as guessing; all, if there is none."""
    lines = [line for line in outcome.lines if line["kind"] == "train"]
    wanted = 2 / len(outcome.run["data"]["classes"])
    begun = float(lines[-1]["step"])
    for line in reversed(lines):
        if line["accuracy"] < wanted:
            break
        begun = float(line["step"])
    return begun


BEGINS = Metric(
    "begins",
    "updates to leave chance",
    begins,
    scale=1.0,
    unit="updates",
    higher_is_better=False,
    resolution=5.0,
)


def chance_plateau(setting: Setting) -> Experiment:
    """Deep Xceptions without residual connections, and VGGs without batch norm, each with one thing put right."""
    short = _short(setting)
    deep = (728,) * DEEP
    plain = setting.variant(short, residual=False, middle=deep)
    slow = replace(plain, optimizer=replace(plain.optimizer, lr=plain.optimizer.lr / 10))
    vgg = setting.network("vgg16", short, width=0.125, init_std=0.01)
    recipes = {
        "residual": setting.variant(short, middle=deep),
        "no residual": plain,
        "no residual, shallow": setting.variant(short, residual=False, middle=(728, 728)),
        "no residual, a tenth of the rate": slow,
        "no residual, warm-up": replace(plain, schedule=Linear(warmup=short.samples / 2, unit="samples")),
        "VGG-16": vgg,
        "VGG-16, a tenth of the rate": replace(vgg, optimizer=slow.optimizer),
        "VGG-16, He's start": setting.variant(vgg, init_std=0.0),
        "VGG-16, He's start, a tenth of the rate": setting.variant(
            replace(vgg, optimizer=slow.optimizer), init_std=0.0
        ),
        "VGG-16, batch norm": setting.network("vgg16_bn", short, width=0.125, init_std=0.01),
    }
    return Experiment(
        question="Why does a run sit at the accuracy of guessing, and what gets it going?",
        source="readers' question on Chollet 2017, section 4.6; He 2015, section 2.2",
        arms=tuple(Arm(name, recipe) for name, recipe in recipes.items()),
        claims=(
            Better("Residual connections get a deep network going.", "residual", "no residual", BEGINS),
            Better("Less depth gets a deep network going.", "no residual, shallow", "no residual", BEGINS),
            Better("A lower rate gets it going.", "no residual, a tenth of the rate", "no residual", BEGINS),
            Better("Warm-up gets a deep network going.", "no residual, warm-up", "no residual", BEGINS),
            Better(
                "He's start gets VGG-16 going.",
                "VGG-16, He's start, a tenth of the rate",
                "VGG-16, a tenth of the rate",
                BEGINS,
            ),
            Better("Batch norm gets VGG-16 going.", "VGG-16, batch norm", "VGG-16", BEGINS),
        ),
        metrics=(BEGINS, setting.metric),
        figures=(
            Dots("Updates until it is twice as good as guessing", BEGINS),
            Dots("In the end", setting.metric),
        ),
        needs="one label",
        notes=("An arm that never leaves chance counts with all its updates, so its true number is larger",),
    )


def _short(setting: Setting) -> Recipe:
    """The scale's recipe for a beginning: small batches, one rate, no average, a line of metrics every few updates."""
    base = setting.recipe
    batch = min(SAMPLES_OF, base.batch_size)
    samples = base.samples or round(base.epochs * setting.traits.num_train)
    samples = max(batch, samples // SHORT)
    return replace(
        base,
        samples=samples,
        batch_size=batch,
        schedule=Constant(),
        averaging=0.0,
        label_smoothing=0.0,
        eval_every=samples,
        eval_unit="samples",
        log_every=5,
    )
