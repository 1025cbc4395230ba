"""What processes do that help with a run which another leads: those that train along, and asynchronous workers."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from depthwise.data.dataset import Dataset
from depthwise.ship.starting import network_for
from depthwise.train.asynchronous.crew import Hire
from depthwise.train.asynchronous.descent import Asynchronous
from depthwise.train.asynchronous.service import Service
from depthwise.train.asynchronous.worker import Worker
from depthwise.train.following import follow, trainer_as_led
from depthwise.train.launch import threads_each
from depthwise.train.options import Options
from depthwise.train.run import Silent
from depthwise.train.session import Watcher
from depthwise.train.world import World

Open = Callable[[dict[str, Any], Watcher], Dataset]
"""Opens a run's images, by what the run knows of them."""


def train_along(open_data: Open, options: Options, world: World) -> dict[str, Any]:
    """Do what the leader of `world` says, to the end of its run; what that came to. The images come from where it says,
    all else from it."""
    order = world.follow(stopping=False)
    if order.name != "open":
        return dict(order.values)
    torch.set_num_threads(order.values["threads"])
    dataset = open_data(order.values["data"], Silent())
    world.meet()
    build = partial(network_for, dataset=dataset, bundle=None, tell=Silent().message)
    return follow(dataset, build, world, options=options)


def hiring(address: str, open_data: Open, options: Options) -> AbstractContextManager[Hire]:
    """Inside the `with`, what makes the crew of an asynchronous run on the Ray cluster at the address."""
    from depthwise.cluster.asynchronous import on_ray

    return on_ray(address, partial(_work, open_data, options), patience=options.patience)


def _work(open_data: Open, options: Options, values: Mapping[str, Any]) -> Worker:
    """A worker of the asynchronous run that its leader tells of in `values`."""
    dataset = open_data(values["data"] or {}, Silent())
    build = partial(network_for, dataset=dataset, bundle=None, tell=Silent().message)
    # Updates are the servers'; how many gradients make one says which images a batch has.
    updates = Asynchronous(lambda _: (), needed=values["needed"])
    # Nothing can be read ahead, for which batch is next the server says when it is wanted.
    trainer, _ = trainer_as_led(values, dataset, build, replace(options, workers=0), descent=updates)
    return Worker(trainer)


def set_threads(service: Service | None, before: Mapping[str, Any] | None) -> None:
    """Let each of several processes have as many threads as at the start, whatever their number is now.

    service: what an asynchronous run begins with. before: run.json of one that goes on.
    """
    if service:
        torch.set_num_threads(threads_each(service.num_workers))
    elif before:
        several = before["recipe"].get("virtual_shards", 1) > 1 or before.get("asynchronous")
        if several and before["versions"]["threads"].isdecimal():
            torch.set_num_threads(int(before["versions"]["threads"]))
