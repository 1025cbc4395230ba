"""Children that are forked after OpenMP's threads have started, as servers with preloading and multiprocessing do."""

import subprocess
import sys

from depthwise.native import openmp

SECONDS = 300
"""What a child that hangs is given; one that works takes a moment, even on a busy machine."""

WORK = """
import ctypes, multiprocessing, os, torch, depthwise
torch.set_num_threads(2)
torch.manual_seed(0)
x = torch.randn(2, 3, 32, 32)
model = depthwise.create_model("mobilenet_v1", num_classes=3, width=0.125).eval()
predictor = depthwise.Predictor(model, depthwise.Preprocess((32, 32), channels=3), ("a", "b", "c"))
fast = depthwise.compile(model, x[:1], engine="native")
learner = depthwise.create_model("mobilenet_v1", num_classes=3, width=0.125)

def eager():
    return torch.tensor([p.probabilities for p in predictor(list(x.mul(99).byte()), topk=3)])

def operator():
    return depthwise.separable_conv2d(x, torch.ones(3, 1, 3, 3), None, torch.ones(5, 3, 1, 1))

def training():
    return learner(x.contiguous(memory_format=torch.channels_last))

# PyTorch itself refuses it, in so many words, in the child of a process that has done it.
def backward():
    training().square().sum().backward()
    return all(bool(p.grad.isfinite().all()) for p in learner.parameters())

everything = (eager, lambda: fast(x), operator, lambda: training().detach(), lambda: torch.ones(1 << 18).add(1))
expected = [work() for work in everything]
assert len(os.listdir("/proc/self/task")) > 1, "no thread was started"

def same(threads):
    if torch.get_num_threads() != threads:
        return False
    return all(torch.allclose(work(), y, 1e-3, 1e-5) for work, y in zip(everything, expected))
"""

# A child, a child of that child, and then the parent again.
FORKS = """
def fork_in_c():
    # As servers that are written in C fork: Python hears of it afterwards.
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return pid

def forked(then):
    pid = {fork}()
    if not pid:
        os._exit(0 if same({threads}) and then() else 1)
    return os.waitpid(pid, 0)[1] == 0

print(forked(lambda: forked(backward)), same(2))
"""

POOL = """
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(same, [2, 2, 2]), same(2))
"""


# A thread of the parent is in the middle of an answer, and of packing weights, when another forks.
LOCKS = """
import os, threading, time, torch
from types import SimpleNamespace
from depthwise.infer import ops
from depthwise.infer import eventual

started = threading.Event()

class Slow(torch.nn.Module):
    def forward(self, x):
        started.set()
        time.sleep(0.5)
        return x

network = eventual.Eventual(Slow(), (1, 1, 1), SimpleNamespace(has=lambda shape: False))
packing = ops._pack

def pack(tensors):
    started.set()
    time.sleep(0.5)
    return packing(tensors)

ops._pack = pack
weights = torch.ones(1, 1, 3, 3), None, torch.ones(16, 1, 1, 1)

for work in (lambda: network(torch.ones(1, 1, 1, 1)), lambda: ops.separable_conv2d(torch.ones(1, 1, 5, 5), *weights)):
    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    started.clear()
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    print(os.waitpid(pid, 0)[1])
    thread.join()
"""


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_child_does_what_its_parent_did() -> None:
    """Of one parent, which works on 2 threads again after each: by os.fork, by fork in C, and in a pool."""
    forks = [FORKS.format(fork=fork, threads=threads) for fork, threads in (("os.fork", 2), ("fork_in_c", 1))]
    found = python(WORK + "".join(forks) + POOL).splitlines()
    assert found == ["True True", "True True", "[True, True, True] True"]


def test_no_lock_stays_shut_in_a_child() -> None:
    assert python(LOCKS) == "0\n0"


def test_the_openmp_that_pytorch_runs_on_is_found() -> None:
    assert openmp.find() is not None
