"""How long an update of the weights takes: in one pass, as training does it, against each part by itself, in turns.

    python benchmarks/update_speed.py [--rounds 15] [--json]

Gradients are clipped, TensorFlow's RMSprop (or SGD, or AdamW) takes its step, Polyak's average follows: of the 22.9
million parameters of Xception, and of a network with 0.66 million, where the calls of many small tensors count. Each
part by itself is PyTorch's operators, by the same code where its kernels are switched off.
"""

import argparse
import json
from collections.abc import Callable
from statistics import median

import torch

from depthwise import native
from depthwise.models import create_model
from depthwise.timing import REST, Ratio, in_turns, ratio, seconds, settled
from depthwise.train.average import PolyakAverage
from depthwise.train.optimizer import SGD, AdamW, RMSprop
from depthwise.train.update import Update

SMALL = {"stem": "small", "width": 0.25, "entry": (128, 256), "middle": (728, 728)}
NETWORKS = {
    "xception": ({"num_classes": 1000}, 1),
    "xception of 28x28": ({"num_classes": 10, "in_channels": 1, **SMALL}, 20),
}
OPTIMIZERS = {
    "rmsprop": RMSprop(weight_decay=1e-5),
    "sgd": SGD(nesterov=True, weight_decay=1e-5),
    "adamw": AdamW(),
}


def updates(arguments: dict, optimizer: SGD | AdamW | RMSprop, number: int, path: str) -> Callable[[], float]:
    """Seconds of each of so many updates, with new gradient tensors for each, as a backward pass leaves them."""
    torch.manual_seed(0)
    module = create_model("xception", **arguments).to(memory_format=torch.channels_last)
    parameters = [*module.parameters()]
    gradients = [torch.randn_like(parameter) for parameter in parameters]
    update = Update(module, optimizer.build(module), PolyakAverage(module, 0.9999))

    def once() -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(gradient)
        update.apply(1, max_norm=1.0)

    def several() -> None:
        for _ in range(number):
            once()

    def timed() -> float:
        native.use(path)
        return seconds(several) / number

    timed()
    return timed


def compared(arguments: dict, optimizer: SGD | AdamW | RMSprop, number: int, rounds: int) -> dict:
    """Milliseconds of an update either way, and how many times as fast one pass is; measured again if noisy."""
    ways = {
        "one pass": updates(arguments, optimizer, number, "best"),
        "parts": updates(arguments, optimizer, number, "off"),
    }

    def measured() -> tuple[dict[str, list[float]], Ratio]:
        times = in_turns(ways, rounds, rest=REST)
        return times, ratio(times["parts"], times["one pass"])

    times, found = settled(measured, lambda result: result[1].spread)
    return {
        "one_pass_ms": round(1000 * median(times["one pass"]), 3),
        "parts_ms": round(1000 * median(times["parts"]), 3),
        **found.to_json(),
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    native.tune_allocator()  # as training does
    results = {
        f"{network}, {name}": compared(arguments, optimizer, number, options.rounds)
        for network, (arguments, number) in NETWORKS.items()
        for name, optimizer in OPTIMIZERS.items()
    }
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, result in results.items():
        times = (
            f"{result['times']:.2f}x as fast"
            if result["times"]
            else "too noisy to say how many times as fast"
        )
        print(
            f"{name}: {result['one_pass_ms']} ms in one pass, {result['parts_ms']} ms by parts: {times} "
            f"({result['lowest']:.2f} to {result['highest']:.2f}, {result['rounds']} rounds)"
        )


if __name__ == "__main__":
    main()
