"""500 mutated configs of a bundle: each is loaded as if nothing were wrong, or refused in one sentence."""

from pathlib import Path

from hostile import survives

COUNT = 500

PROGRAM = """
import json, random, sys, warnings
from pathlib import Path
from hostile import check_sentence, mutated_text, print_memory
import torch
from depthwise import load
from depthwise.bundle import BundleConfig, read_bundle, write_bundle
from depthwise.data import Preprocess
from depthwise.errors import DepthwiseError
from depthwise.models import create_model

seed, count = int(sys.argv[1]), int(sys.argv[2])
dice = random.Random(seed)
warnings.simplefilter("ignore")
arguments = {"stem": "small", "width": 0.05, "entry": [128], "middle": [128], "exit": [128, 256]}
module = create_model("xception", num_classes=3, in_channels=3, **arguments)
config = BundleConfig(
    "xception", ("a", "b", "c"), Preprocess((32, 32), 3), arguments, training={"top1": 0.5, "data": "x"},
    compiled={"precision": "fp32", "engine": "native", "error": 1e-6, "milliseconds": 1.0, "speedup": 2.0,
              "speedup_range": [1.5, 2.5], "accuracy": [0.5, 0.5], "agreement": 1.0, "num_images": 9},
)
bundle = Path("bundle")
write_bundle(bundle, config, module.state_dict())
written = (bundle / "config.json").read_bytes()
good, loaded = json.loads(written), 0
for i in range(count):
    text = mutated_text(good, dice)
    (bundle / "config.json").write_bytes(text)
    try:
        predictor = load(bundle)
        size = predictor.preprocess.size
        if size[0] * size[1] < 10**6:
            image = torch.zeros(3, 40, 40, dtype=torch.uint8)
            prediction = predictor(image)
            assert abs(sum(predictor(image, topk=3).probabilities) - 1) < 1e-4, text
        loaded += 1
    except DepthwiseError as error:
        sentence = str(error)
        check_sentence(sentence.encode("ascii", "backslashreplace").decode())
        assert "bundle" in sentence, sentence
    except BaseException:
        print("seed", seed, "number", i, "config", ascii(text[:3000]))
        raise
print("loaded", loaded)
print_memory()
"""


def test_mutated_configs_load_or_are_refused(fuzz_seed: int, tmp_path: Path) -> None:
    printed = survives(PROGRAM, fuzz_seed, COUNT, folder=tmp_path)
    loaded = int(printed.split()[-2])
    assert 5 < loaded < COUNT / 2  # it is neither all refused unread nor all taken as it is
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["bundle"]
