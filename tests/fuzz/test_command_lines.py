"""300 command lines through the real entry point: each does what it says or is refused in one sentence.

Exit codes are among 0, 1, 2 and 130; nothing is written outside the folder, and no program is started.
"""

from pathlib import Path

from hostile import survives

COUNT = 300

PROGRAM = """
import contextlib, io, os, random, sys, traceback
from pathlib import Path
from hostile import check_sentence, print_memory
import numpy, torch
from PIL import Image
from depthwise.bundle import BundleConfig, write_bundle
from depthwise.cli.app import run
from depthwise.data import Preprocess
from depthwise.models import create_model
from depthwise.train.recipe import SHORT, Recipe
import matplotlib.font_manager  # which torchmetrics brings, and which asks the system for its fonts
import tempfile
tempfile.gettempdir()  # which tries once whether it can be written to

seed, count = int(sys.argv[1]), int(sys.argv[2])
dice = random.Random(seed)
home = Path.cwd()
arguments = {"stem": "small", "width": 0.05, "entry": [128], "middle": [128], "exit": [128, 256]}
module = create_model("xception", num_classes=2, in_channels=3, **arguments)
config = BundleConfig("xception", ("cat", "dog"), Preprocess((32, 32), 3), arguments)
write_bundle("bundle", config, module.state_dict())
for k in range(8):
    place = Path("photos", ("cat", "dog")[k % 2]); place.mkdir(parents=True, exist_ok=True)
    pixels = numpy.random.default_rng(k).integers(0, 256, (40, 40, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(place / f"{k}.png")
Path("occupied").mkdir(); Path("occupied/thesis.txt").write_text("years of work")
Path("garbage.h5").write_bytes(bytes(range(256)) * 8)
IMAGE = "photos/cat/0.png"

# No value makes a sensible run a long one: whatever is large here is too large.
HOSTILE = ("-1", "0", "nan", "inf", "-inf", "1e400", "1e300", "-0.0", "1e-9", "9" * 400, "9" * 5000, "True", "None",
           "", "[]", "{}", "()", "(1e9,)", "(0,)", "[[[[1]]]]", "(" * 500, "x" * 5000, "\\udcff", "caf\\u00e9\\x1b[31m",
           "2**70", "__import__('os').system('touch /tmp/x')", "--", "-", "=", "a=b", "../../etc/passwd", "/dev/null",
           ",", "\\n")
TYPICAL = ("xception", "digits", "bundle", "photos", "occupied", IMAGE, "2", "0.5", "native")
NETWORK = ("width", "entry", "middle", "exit", "dropout", "num_classes", "in_channels", "stem", "conv", "padding",
           "norm_eps", "fully_connected", "residual", "depths", "groups", "blocks", "nothing")
RECIPE = [name for name in Recipe(name="x").to_json() if name not in ("name", "model_args")] + [*SHORT] + [
    "optimizer.lr", "optimizer.momentum", "schedule.warmup", "augment.scale", "augment.mixup", "augment.crop"]
# The command, its usual arguments, and the options whose value may be another.
LINES = (
    (["models"], ["xception"], ("--json",)),
    (["cost", "xception"], ["--size", "96"], ("--size", "--classes", "--set", "--sweep", "--match")),
    (["cost", "separable"], ["--set", "m=4", "n=4"], ("--size", "--set", "--sweep")),
    (["cost", "bundle"], [], ("--size", "--set")),
    (["draw", "mobilenet_v1"], ["-o", "new.svg", "--force"], ("--size", "--classes", "--set", "-o")),
    (["predict", "bundle"], [IMAGE], ("--topk", "--batch-size", "--threshold", "--csv", "--json", "--out")),
    (["eval", "bundle"], ["--data", "photos", "--workers", "0"], ("--data", "--split", "--batch-size", "--workers")),
    (["data", "check"], ["photos"], ("--json",)),
    (["data", "stats"], ["photos"], ("--sheet",)),
    (["data", "export"], ["photos", "--out", "copies", "--force"], ("--limit", "--split", "--out")),
    (["import"], ["garbage.h5", "--model", "xception", "--out", "imported"], ("--model", "--out", "--classes")),
    (["export", "bundle"], ["--format", "onnx", "--out", "bundle/config.json"], ("--format", "--data", "--out")),
    (["compile", "bundle"], ["--out", "occupied"], ("--precision", "--engine", "--data", "--workers")),
    (["bench", "bundle"], ["--engines", "none"], ("--batch", "--threads", "--rounds", "--sweep", "--set", "--size")),
    (["train"], ["--data", "photos", "--out", "occupied", "--workers", "0"],
     ("--seed", "--epochs", "--set", "--set", "--set", "--set", "--workers", "--checkpoint-minutes", "--model",
      "--recipe", "--init", "--device", "--checkpoint-steps", "--data")),
)

def line():
    command, usual, options = dice.choice(LINES)
    tokens = [*command, *usual]
    for _ in range(dice.randint(0, 2)):
        option, value = dice.choice(options), dice.choice(HOSTILE if dice.random() < 0.8 else TYPICAL)
        if option == "--set":
            value = f"{dice.choice(RECIPE if command == ['train'] else NETWORK)}={value}"
        if option == "--sweep":
            value = f"{dice.choice(('width', 'size', 'batch', 'threads', 'nothing'))}={value}"
        if option == "--match":
            value = f"{dice.choice(('parameters', 'macs', 'nothing'))}={value}"
        tokens += [option] if option in ("--csv", "--json") else [option, value]
    if dice.random() < 0.1:
        tokens.insert(dice.randrange(len(tokens) + 1), dice.choice(HOSTILE))
    if dice.random() < 0.05:
        del tokens[dice.randrange(len(tokens))]
    return tokens

faults, codes = [], {}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(event, arguments):
    if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork"):
        # Multiprocessing: our workers and what keeps count of their memory. uname: a library's platform.uname() as
        # it is imported.
        if "multiprocessing" not in str(arguments) and "['uname', '-p']" not in str(arguments):
            stack = "".join(traceback.format_stack()[-12:])[-1500:]
            faults.append(f"started: {event} {str(arguments)[:300]} at {stack}")
    if event == "socket.connect" or event == "socket.getaddrinfo":
        faults.append(f"network: {event} {str(arguments)[:300]}")
    if event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int) and arguments[2] & WRITES:
        path = os.path.realpath(arguments[0])
        if not path.startswith((str(home), "/dev/", "/proc/")) and "__pycache__" not in path:
            faults.append(f"wrote: {path}")

sys.addaudithook(watch)
for i in range(count):
    tokens = line()
    shown = ascii([token[:60] for token in tokens])
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run([token.replace("\\x00", "") for token in tokens])
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    said = err.buffer.getvalue().decode("utf-8", "replace")
    codes[code] = codes.get(code, 0) + 1
    if code not in (0, 1, 2, 130):
        faults.append(f"{shown} ended with {code}")
    if "unexpected" in said or "Traceback" in said:
        faults.append(f"{shown} said {said[-500:]}")
    if code == 2 or (code == 1 and "error: " in said):
        try:
            check_sentence(said.strip().splitlines()[-1])
        except Exception as error:
            faults.append(f"{shown} said {said[-400:]}")
if Path("occupied/thesis.txt").read_text() != "years of work" or len(os.listdir("occupied")) != 1:
    faults.append("what was not ours was touched")
print("codes", codes)
for fault in dict.fromkeys(faults):
    print("seed", seed, fault.encode("ascii", "backslashreplace").decode()[:2500])
assert not faults
print_memory()
"""


def test_command_lines_end_as_they_should(fuzz_seed: int, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    printed = survives(PROGRAM, fuzz_seed, COUNT, folder=work)
    assert "codes" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
