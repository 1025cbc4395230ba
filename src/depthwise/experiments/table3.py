"""Size and speed: 22,855,952 parameters against Inception V3's 23,626,728, and 28 training steps a second against 31
on 60 K80 GPUs (Chollet 2017, section 4.5.3, Table 3).

Nothing is trained here. Both networks are built whole, for 1,000 classes at 299 pixels, whatever the scale and the
data, and a training step and an answer of each are timed in turns on this machine.
"""

from dataclasses import replace

from depthwise.comparison.experiment import Arm, Experiment, Speed
from depthwise.comparison.setting import IMAGENET, Setting
from depthwise.recipes import xception_imagenet

XCEPTION, INCEPTION = "Xception", "Inception V3"


def table3(setting: Setting) -> Experiment:
    """Xception and the Inception V3 of that table."""
    own = replace(setting, traits=IMAGENET, channels=3)
    base = xception_imagenet(IMAGENET)
    return Experiment(
        question="How much slower is Xception than Inception V3 at equal parameters?",
        source="Chollet 2017, section 4.5.3, Table 3",
        arms=(
            Arm(INCEPTION, own.network("inception_v3_table3", base), paper={"training": 31}),
            Arm(XCEPTION, base, paper={"training": 28}, note="22,855,952 parameters in the paper"),
        ),
        setting=own,
        speed=Speed(batch=8),
        trains=False,
        notes=(
            "Xception has 22,855,952 parameters and Inception V3 23,626,728, as in the paper: 3.3% apart",
            "In the paper Xception makes 28/31 = 0.90 of Inception V3's steps",
        ),
    )
