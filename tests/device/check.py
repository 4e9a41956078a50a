"""What a CUDA device has to show: captured updates equal eager ones, runs go on across devices, and how fast it is.

    python tests/device/check.py                        # on a CUDA device: within 6 minutes
    python tests/device/check.py --small --device cpu   # what CI runs; "captured" is then the traced replay

Prints one JSON object; the exit code is 1 where something that must hold doesn't. Beside PyTorch and NumPy it needs the
pure wheels gymnasium, farama-notifications, cloudpickle, typing_extensions and annotated-types, nothing else. A machine
without a package index takes them from a folder:

    pip install --target wheels --no-deps gymnasium farama-notifications cloudpickle typing_extensions annotated-types
    PYTHONPATH=wheels python tests/device/check.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from offrl.agents.awac import AWAC, AWACConfig
from offrl.agents.bc import BC, BCConfig
from offrl.agents.cql import CQL, CQLConfig
from offrl.agents.edac import EDAC, EDACConfig
from offrl.agents.iql import IQL, IQLConfig
from offrl.agents.ppo import PPO, PPOConfig
from offrl.agents.rebrac import ReBRAC, ReBRACConfig
from offrl.agents.rlpd import RLPD, RLPDConfig
from offrl.agents.sac import SAC, SACConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.nn.state import restore_state, state_tensors
from offrl.ops.noise import NoiseSource
from offrl.testing.random_data import RandomData
from offrl.training.fast_update import fast_update
from offrl.types import NEXT_ACTION, Agent, Batch, Metrics, Noise, Spec

CPU = torch.device("cpu")
SPEC = Spec(gym.spaces.Box(-np.inf, np.inf, (11,), np.float32), gym.spaces.Box(-1.0, 1.0, (3,), np.float32))
"""Hopper's."""
HELD = 4
"""Batches that the updates go through in turn, or at random."""
EQUAL = 1e-4
"""Largest difference of a tensor of the state between captured and eager updates."""
RESUMED = 0.02
"""Largest difference between devices, as a share of how far the parameters moved meanwhile."""
PPO_LEARNING_RATE = 3e-5
"""So small that ratios stay within the clip's bounds, where rounding decides whether a sample counts."""
SECONDS, LEFT_OVER = 300.0, 10.0
"""When measuring has to be over, and what the slowest update may take."""
TARGETS = {"td3": {"1": 2_330.0, "64": 37_000.0}}
"""Updates a second, of all seeds, that are to be reached; captured."""


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        hidden: widths.
        batch: transitions of each seed's gradient step.
        environments, steps, epochs: of PPO's rollouts; and passes over them.
        updates: compared, and between a checkpoint and the comparison behind it.
        before: updates before a checkpoint.
        seeds: measured.
        seconds: that each measurement takes.
    """

    hidden: tuple[int, ...] = (256, 256)
    batch: int = 256
    environments: int = 8
    steps: int = 128
    epochs: int = 4
    updates: int = 10
    before: int = 50
    seeds: tuple[int, ...] = (1, 4, 16, 64)
    seconds: float = 2.0


SMALL = Sizes((16, 16), 16, 2, 16, 2, 6, 10, (1, 2), 0.05)


def agents_of(sizes: Sizes) -> dict[str, Agent[Any, Any]]:
    """The agents by name."""
    hidden, rate = sizes.hidden, PPO_LEARNING_RATE
    ppo = PPOConfig(
        hidden=hidden,
        actor_learning_rate=rate,
        critic_learning_rate=rate,
        minibatch_size=sizes.batch,
        epochs=sizes.epochs,
    )
    return {
        "td3": TD3(TD3Config(hidden=hidden, bc_alpha=2.5), SPEC),
        "sac": SAC(SACConfig(hidden=hidden), SPEC),
        "bc": BC(BCConfig(hidden=hidden), SPEC),
        "ppo": PPO(ppo, SPEC),
        "iql": IQL(IQLConfig(hidden=hidden), SPEC),
        "awac": AWAC(AWACConfig(hidden=hidden), SPEC),
        "rebrac": ReBRAC(ReBRACConfig(hidden=hidden), SPEC),
        "cql": CQL(CQLConfig(hidden=hidden), SPEC),
        "edac": EDAC(EDACConfig(hidden=hidden), SPEC),
        "rlpd": RLPD(RLPDConfig(hidden=hidden), SPEC),
    }


class Data:
    """Batches and draws for an agent's updates; what is drawn at random is so on the CPU, and the same on any device.

    Args:
        agent: whose updates.
        sizes: of batches.
        seeds: how many.
        device: where batches and draws lie.
    """

    def __init__(self, agent: Agent[Any, Any], sizes: Sizes, seeds: int, device: torch.device) -> None:
        data, on_policy = RandomData(SPEC, 1), isinstance(agent, PPO)
        rows = sizes.environments * sizes.steps if on_policy else sizes.batch
        columns = (NEXT_ACTION,) if isinstance(agent, ReBRAC) else ()
        self.batches = [
            (
                data.rollout(seeds, sizes.environments, sizes.steps, agent.discount)
                if on_policy
                else data.transitions(seeds, rows, agent.discount, columns=columns)
            ).to(device)
            for _ in range(HELD)
        ]
        self.count, self.shapes = agent.batches_per_update, agent.noise_shapes(rows)
        self.noise = NoiseSource(range(seeds), device, 0)
        self.order = torch.Generator().manual_seed(2)

    def draw(self, updates: int) -> list[tuple[list[Batch], Noise]]:
        """What so many updates take."""
        order = torch.randint(HELD, (updates, self.count), generator=self.order).tolist()
        noise = self.noise.draw_updates(self.shapes, updates)
        return [([self.batches[i] for i in chosen], draws) for chosen, draws in zip(order, noise, strict=True)]

    def named_tensors(self) -> dict[str, Tensor]:
        """Where the random numbers are, for a checkpoint."""
        return self.noise.named_tensors() | {"order": self.order.get_state()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.noise.restore(tensors)
        self.order.set_state(tensors["order"])


Update = Callable[[list[Batch], Noise], Metrics]


class Run:
    """An agent in training.

    Args:
        agent: the agent.
        sizes: of its data.
        seeds: numbers.
        device: where it trains.
        captured: whether its updates are captured, or replayed on the CPU.
    """

    def __init__(
        self, agent: Agent[Any, Any], sizes: Sizes, seeds: Sequence[int], device: torch.device, *, captured: bool
    ) -> None:
        self.state = agent.init(seeds, device)
        self.data = Data(agent, sizes, len(seeds), device)
        state = self.state
        self.update: Update = (
            fast_update(agent, state, device) if captured else lambda *inputs: agent.update(state, *inputs)
        )

    def train(self, updates: int) -> None:
        """Make so many updates."""
        for batches, noise in self.data.draw(updates):
            self.update(batches, noise)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A checkpoint's tensors, of the state and of the random numbers."""
        return copied(state_tensors(self.state)), copied(self.data.named_tensors())

    def restore(self, saved: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        """Go on from a checkpoint."""
        restore_state(self.state, saved[0], "checkpoint")
        self.data.restore(saved[1])


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Of any element of any tensor; NaN where one is not finite."""
    return float(torch.stack([(ours[name].double() - theirs[name].double()).abs().max() for name in theirs]).max())


def part_of(name: str) -> str:
    """The network, or the optimizer's moment, that a tensor of a state is of."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first.endswith("optimizer") else first


def shares_of_movement(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> dict[str, float]:
    """The distance between two states, over the distance that one has come; of each of their parts that moved.

    Of whole networks: where a unit is at its kink for one of the samples, devices may well come to different sides.
    """
    apart: dict[str, float] = {}
    moved: dict[str, float] = {}
    for name, start in before.items():
        if start.is_floating_point():
            part, end = part_of(name), theirs[name].double()
            apart[part] = apart.get(part, 0.0) + float((ours[name].double() - end).square().sum())
            moved[part] = moved.get(part, 0.0) + float((end - start.double()).square().sum())
    return {part: (apart[part] / moved[part]) ** 0.5 if moved[part] else apart[part] for part in apart}


def check_captured(agent: Agent[Any, Any], sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Whether captured updates do what eager ones do.

    Behind Adam's first steps, at which rounding can move an element by as much as everything else does.
    """
    eager, captured = (Run(agent, sizes, (0, 1), device, captured=how) for how in (False, True))
    eager.train(sizes.before)
    captured.restore(eager.saved())
    for run in (eager, captured):
        run.train(sizes.updates)
    difference = largest_difference(captured.saved()[0], eager.saved()[0])
    return {"difference": difference, "holds": difference <= EQUAL}


def check_resumed(agent: Agent[Any, Any], sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Whether a run goes on from the CPU to the device, and back, as it would have where it was."""
    here = Run(agent, sizes, (0, 1), CPU, captured=False)
    here.train(sizes.before)
    there, back = (Run(agent, sizes, (2, 3), where, captured=True) for where in (device, CPU))
    shares: dict[str, Any] = {}
    for name, source, target in (("to_device", here, there), ("to_cpu", there, back)):
        saved = source.saved()
        target.restore(saved)
        for run in (source, target):
            run.train(sizes.updates)
        shares[name] = shares_of_movement(target.saved()[0], source.saved()[0], saved[0])
    return shares | {"holds": all(share <= RESUMED for parts in shares.values() for share in parts.values())}


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def updates_per_second(
    agent: Agent[Any, Any], sizes: Sizes, seeds: int, device: torch.device, *, captured: bool, until: float
) -> float | None:
    """Updates of all seeds together, a second; None where there is no time for it."""
    if time.perf_counter() + LEFT_OVER > until:
        return None
    run = Run(agent, sizes, range(seeds), device, captured=captured)
    work = cycle(run.data.draw(HELD))
    for _ in range(5):
        run.update(*next(work))
    synchronize(device)
    start, done, chunk = time.perf_counter(), 0, 1
    while (taken := time.perf_counter() - start) < sizes.seconds:
        for _ in range(chunk):
            run.update(*next(work))
        # What waits for the device is waited for too: launches alone would run ahead of it.
        synchronize(device)
        done += chunk
        chunk = min(2 * chunk, 256)
    return round(done / taken, 1)


def measure(agent: Agent[Any, Any], sizes: Sizes, device: torch.device, until: float) -> dict[str, Any]:
    """Calls of `update` a second by the number of seeds, captured and eager; and the steps that each counts as."""
    return {"steps_per_update": agent.batches_per_update} | {
        how: {
            str(seeds): updates_per_second(agent, sizes, seeds, device, captured=how == "captured", until=until)
            for seeds in sizes.seeds
        }
        for how in ("captured", "eager")
    }


def reached(rates: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The targets, and what was measured: of all seeds, calls of `update`, and the steps that recipes count."""
    report = []
    for name, targets in TARGETS.items():
        for seeds, target in targets.items():
            rate = rates[name]["captured"].get(seeds)
            updates = None if rate is None else rate * int(seeds)
            steps = None if updates is None else updates * rates[name]["steps_per_update"]
            report.append({"agent": name, "seeds": int(seeds), "target": target, "updates": updates, "steps": steps})
    return report


def about(device: torch.device) -> dict[str, Any]:
    """The machine."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
    }


def main() -> int:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small networks and few updates")
    options = parser.parse_args()
    device, sizes = torch.device(options.device), SMALL if options.small else Sizes()
    start = time.perf_counter()
    agents = agents_of(sizes)
    report: dict[str, Any] = about(device)
    report["captured_equals_eager"] = {name: check_captured(agent, sizes, device) for name, agent in agents.items()}
    report["resumed"] = {name: check_resumed(agent, sizes, device) for name, agent in agents.items()}
    rates = {name: measure(agent, sizes, device, start + SECONDS) for name, agent in agents.items()}
    report["updates_per_second"], report["targets"] = rates, reached(rates)
    checks = [part for kind in ("captured_equals_eager", "resumed") for part in report[kind].values()]
    report["holds"] = all(part["holds"] for part in checks)
    report["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(report))
    return 0 if report["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
