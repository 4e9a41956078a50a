"""What every worker shares: data, clock, output. It needs NumPy only, for it runs in each peer's environment."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

BATCH_SIZE = 256
HIDDEN = (256, 256)
DEEP_HIDDEN = (256, 256, 256)
"""Of the networks of CQL, EDAC and ReBRAC."""
LARGE_BATCH_SIZE = 1024
"""Of ReBRAC."""
WINDOWS, CONTEXT, TOKEN_WIDTH, BLOCKS = 64, 20, 128, 3
"""Decision Transformer: windows in a batch, steps in each, the width of a token, and transformer blocks."""
OBSERVATION_DIM, ACTION_DIM = 11, 3
EPISODE_LENGTH = 1000
SAMPLING_EPISODES = 1000
DEMONSTRATIONS = 100
BLOCK = 64
"""Batches drawn in one call, where a subject draws whole blocks."""
ONLINE_WARM_UP_STEPS = 1000
"""Random environment steps before the first update of an online subject."""
SMALL_HIDDEN = (64, 64)
"""Of the networks of PPO and DQN."""
ROLLOUT_STEPS, EPOCHS, MINIBATCH_SIZE = 2048, 10, 64
"""PPO: steps of each environment in an update, and the passes over them."""
DISCRIMINATOR_UPDATES, DISCRIMINATOR_BATCH_SIZE = 8, 256
"""GAIL: discriminator steps in a round, and the transitions of either side in each."""
ENVIRONMENTS = 8
"""Where several are stepped side by side."""
CRITICS, SAMPLED_ACTIONS = 10, 10
"""EDAC: critics. CQL: actions of each of three kinds that an integral over actions is estimated from."""
SEEDS = 4
"""Where several are trained side by side."""
DQN_BATCH_SIZE, STEPS_PER_UPDATE, STEPS_PER_TARGET = 32, 4, 10_000
"""DQN: environment steps from one update to the next, and from one copy of the network to its target to the next."""
EPSILON = 0.05
"""DQN: chance of a random action after the warm-up steps."""
LOGGED_STEPS, LOGGED_EPISODES, SHORT_EPISODES = 1_000_000, 1_000, 100_000
"""Off-policy evaluation: steps in all, in long episodes or in short ones."""
RESAMPLES, LOG_DISCOUNT = 1_000, 0.99
ENDLESS = 10**9
"""Steps asked of a training loop that the end of the window interrupts."""


@dataclass(frozen=True)
class Episodes:
    """Hopper-sized trajectories of equal length that all end by the time limit; float32, flags bool.

    Attributes:
        observation: [episodes, length + 1, OBSERVATION_DIM].
        action: [episodes, length, ACTION_DIM], in (-1, 1).
        reward: [episodes, length].
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray

    def transitions(self) -> dict[str, np.ndarray]:
        """The same data with one row per transition."""
        terminated = np.zeros(self.reward.size, dtype=bool)
        return {
            "observation": self.observation[:, :-1].reshape(-1, OBSERVATION_DIM),
            "action": self.action.reshape(-1, ACTION_DIM),
            "reward": self.reward.reshape(-1),
            "next_observation": self.observation[:, 1:].reshape(-1, OBSERVATION_DIM),
            "terminated": terminated,
        }


def synthetic_episodes(count: int, seed: int = 0) -> Episodes:
    """Random data whose actions are a smooth function of the observations, so that there is something to clone."""
    rng = np.random.default_rng(seed)
    observation = rng.standard_normal((count, EPISODE_LENGTH + 1, OBSERVATION_DIM), dtype=np.float32)
    weights = rng.standard_normal((OBSERVATION_DIM, ACTION_DIM), dtype=np.float32) / OBSERVATION_DIM
    action = np.tanh(observation[:, :-1] @ weights)
    reward = rng.standard_normal((count, EPISODE_LENGTH), dtype=np.float32)
    return Episodes(observation, action, reward)


@dataclass(frozen=True)
class Choices:
    """A log of choices between two actions, in episodes of equal length that all terminate.

    Attributes:
        action: int64 [steps].
        reward: [steps].
        behavior, target: [steps, 2], each action's probability.
    """

    episodes: int
    action: np.ndarray
    reward: np.ndarray
    behavior: np.ndarray
    target: np.ndarray


def synthetic_choices(episodes: int, seed: int = 0) -> Choices:
    """Random choices, and a target policy so close by that the weights of whole episodes stay useful."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(0.3, 0.7, LOGGED_STEPS)
    near = first + rng.uniform(-0.02, 0.02, LOGGED_STEPS)
    action = (rng.random(LOGGED_STEPS) > first).astype(np.int64)
    behavior, target = np.column_stack([first, 1.0 - first]), np.column_stack([near, 1.0 - near])
    return Choices(episodes, action, rng.standard_normal(LOGGED_STEPS), behavior, target)


class Window:
    """Counts events over a steady stretch of time, after a warm-up.

    Args:
        seconds: how long to count.
        warm_up: how long to let pass, from the first tick on, before counting begins.
    """

    def __init__(self, seconds: float, warm_up: float) -> None:
        self.seconds, self.warm_up = seconds, warm_up
        self.events = 0
        self.first_tick: float | None = None
        self.start: float | None = None
        self.elapsed = 0.0

    def tick(self, events: int = 1) -> bool:
        """Note that `events` more were done; False once the window is over.

        Where work comes in cycles of unlike parts, tick where each of them begins, so that whole ones count.
        """
        now = time.perf_counter()
        if self.first_tick is None:
            self.first_tick = now
        if self.start is None:
            if now - self.first_tick >= self.warm_up:
                self.start = now
            return True
        self.events += events
        self.elapsed = now - self.start
        return self.elapsed < self.seconds

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.elapsed


class WindowOver(Exception):
    """Raised by a callback to leave a training loop that can't be told to stop."""


Row = Callable[[Window], float]
"""Measures one row: runs until the window is over and returns the figure."""


def steadily(window: Window, step: Callable[[], int]) -> float:
    """Call `step`, which returns how many events it did, until the window is over; events per second."""
    while window.tick(step()):
        pass
    return window.rate


def process_seconds(window: Window, command: Sequence[str]) -> float:
    """Run a command from start to exit until the window is over; the median of the seconds that it took."""
    return median_seconds(window, lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def median_seconds(window: Window, work: Callable[[], object]) -> float:
    """Do some work until the window is over; the median of the seconds that it took."""
    durations = []

    def step() -> int:
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
        return 1

    steadily(window, step)
    return statistics.median(durations[1:])


def main(rows: dict[str, Row], package: str) -> None:
    """Measure the row named on the command line and print one line of JSON: the figure and the versions behind it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("row", choices=rows)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    arguments = parser.parse_args()
    value = rows[arguments.row](Window(arguments.seconds, arguments.warm_up))
    versions = {name: version(name) for name in dict.fromkeys((package, "torch", "numpy"))}
    print(json.dumps({"row": arguments.row, "value": value, "python": platform.python_version(), "versions": versions}))
