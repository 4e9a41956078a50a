"""offrl itself."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    BLOCK,
    BLOCKS,
    CONTEXT,
    CRITICS,
    DEEP_HIDDEN,
    DEMONSTRATIONS,
    DISCRIMINATOR_BATCH_SIZE,
    DISCRIMINATOR_UPDATES,
    DQN_BATCH_SIZE,
    ENDLESS,
    ENVIRONMENTS,
    EPISODE_LENGTH,
    EPOCHS,
    EPSILON,
    HIDDEN,
    LARGE_BATCH_SIZE,
    LOG_DISCOUNT,
    LOGGED_EPISODES,
    MINIBATCH_SIZE,
    OBSERVATION_DIM,
    ONLINE_WARM_UP_STEPS,
    RESAMPLES,
    ROLLOUT_STEPS,
    SAMPLED_ACTIONS,
    SAMPLING_EPISODES,
    SEEDS,
    SHORT_EPISODES,
    SMALL_HIDDEN,
    STEPS_PER_TARGET,
    STEPS_PER_UPDATE,
    TOKEN_WIDTH,
    WINDOWS,
    Window,
    WindowOver,
    main,
    median_seconds,
    process_seconds,
    steadily,
    synthetic_choices,
    synthetic_episodes,
)

from offrl.config.recipe import recipe_from_dict
from offrl.data.block import EpisodeBlock
from offrl.data.store import StoreWriter, TrajectoryStore
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimate import estimate
from offrl.replay.sampler import ReplaySampler
from offrl.runs.listener import SilentListener
from offrl.training.run_training import train
from offrl.types import Spec


@contextlib.contextmanager
def store(episodes: int) -> Iterator[TrajectoryStore]:
    """The synthetic episodes as a store on disk."""
    data = synthetic_episodes(episodes)

    def with_final_row(values: np.ndarray) -> np.ndarray:
        """[episodes, T, …] to [episodes · (T + 1), …], zero where only the final observation stands."""
        padding = [(0, 0), (0, 1)] + [(0, 0)] * (values.ndim - 2)
        return np.pad(values, padding).reshape(-1, *values.shape[2:])

    columns = {
        "observation": data.observation.reshape(-1, OBSERVATION_DIM),
        "action": with_final_row(data.action),
        "reward": with_final_row(data.reward),
        "terminated": np.zeros(data.observation.shape[:2], dtype=bool).reshape(-1),
        "truncated": with_final_row(np.tile(np.arange(EPISODE_LENGTH) == EPISODE_LENGTH - 1, (episodes, 1))),
    }
    spec = Spec(
        gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32),
        gym.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32),
    )
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(Path(folder) / "store", spec) as writer:
            writer.append(EpisodeBlock(columns, np.full(episodes, EPISODE_LENGTH)))
        yield writer.close()


def sampling(window: Window, batches: int = 1) -> float:
    with store(SAMPLING_EPISODES) as dataset:
        sampler = ReplaySampler([dataset], batch_size=BATCH_SIZE, seeds=[0])

        def step() -> int:
            sampler.sample(batches)
            return batches * BATCH_SIZE

        return steadily(window, step)


def sampling_blocks(window: Window) -> float:
    """As the training loop draws them."""
    return sampling(window, BLOCK)


class Ticks(SilentListener):
    """Ticks with each line of metrics, and leaves the training loop when the window is over.

    Args:
        window: what to tick.
        first_step: steps up to this one are warm-up, which trains nothing.
    """

    def __init__(self, window: Window, first_step: int = 0) -> None:
        self.window, self.step = window, first_step

    def progress(self, step: int, steps: int, metrics: dict[str, list[float | None]]) -> None:
        if step <= self.step:
            return
        done, self.step = step - self.step, step
        if not self.window.tick(done):
            raise WindowOver


def train_until_over(ticks: Ticks, **settings: Any) -> float:
    """`offrl train` in a run directory of its own, with metrics but without evaluations and checkpoints."""
    values = {
        "steps": ENDLESS,
        "checkpoint_every": ENDLESS,
        "log_every": BLOCK,
        "batch_size": BATCH_SIZE,
        "device": "cpu",
        "evaluation": {"every": 0},
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(WindowOver):
        train(recipe_from_dict(values | settings), Path(folder) / "run", ticks)
    return ticks.window.rate


def bc(window: Window, policy: str = "deterministic") -> float:
    agent = {"hidden": HIDDEN, "policy": policy}
    with store(DEMONSTRATIONS) as dataset:
        data = {"validation_fraction": 0.0}
        return train_until_over(Ticks(window), algo="bc", dataset=str(dataset.path), agent=agent, data=data)


def bc_likelihood(window: Window) -> float:
    """Likelihood of a Gaussian policy."""
    return bc(window, "gaussian")


def td3_bc(window: Window, seeds: int = 1) -> float:
    """With the paper's options, states normalized."""
    agent = {"hidden": HIDDEN, "policy_delay": 2, "bc_alpha": 2.5}
    settings: dict[str, Any] = {"agent": agent, "data": {"validation_fraction": 0.0}, "seeds": tuple(range(seeds))}
    with store(DEMONSTRATIONS) as dataset:
        return train_until_over(Ticks(window), algo="td3", dataset=str(dataset.path), **settings)


def offline(window: Window, algo: str, agent: dict[str, Any], batch_size: int = BATCH_SIZE) -> float:
    """With the paper's options, states as they are."""
    data = {"validation_fraction": 0.0, "normalize_observation": False}
    with store(DEMONSTRATIONS) as dataset:
        settings = {"agent": agent, "data": data, "batch_size": batch_size}
        return train_until_over(Ticks(window), algo=algo, dataset=str(dataset.path), **settings)


def rebrac(window: Window) -> float:
    return offline(window, "rebrac", {"hidden": DEEP_HIDDEN}, LARGE_BATCH_SIZE)


def decision_transformer(window: Window) -> float:
    return offline(window, "dt", {"context": CONTEXT, "width": TOKEN_WIDTH, "layers": BLOCKS}, WINDOWS)


def iql(window: Window) -> float:
    return offline(window, "iql", {"hidden": HIDDEN})


def cql(window: Window) -> float:
    return offline(window, "cql", {"hidden": DEEP_HIDDEN, "samples": SAMPLED_ACTIONS})


def edac(window: Window, diversity: float = 1.0) -> float:
    return offline(window, "edac", {"hidden": DEEP_HIDDEN, "critics": CRITICS, "diversity": diversity})


def sac_n(window: Window) -> float:
    return edac(window, diversity=0.0)


def replay_online(window: Window, algo: str, agent: dict[str, Any]) -> float:
    """One update for each environment step."""
    online = {"warmup_steps": ONLINE_WARM_UP_STEPS, "environments": 1, "updates_per_step": 1.0}
    ticks = Ticks(window, ONLINE_WARM_UP_STEPS)
    return train_until_over(ticks, algo=algo, env="Hopper-v5", agent={"hidden": HIDDEN, **agent}, online=online)


def td3_online(window: Window) -> float:
    return replay_online(window, "td3", {"policy_delay": 2})


def sac_online(window: Window) -> float:
    return replay_online(window, "sac", {})


def ppo(window: Window, environments: int = 1, processes: int = 1) -> float:
    """A line of metrics for each update, whose rollout therefore counts together with it."""
    agent = {
        "hidden": SMALL_HIDDEN,
        "rollout_steps": ROLLOUT_STEPS,
        "epochs": EPOCHS,
        "minibatch_size": MINIBATCH_SIZE,
    }
    online = {"environments": environments, "processes": processes}
    window.tick(0)
    return train_until_over(
        Ticks(window), algo="ppo", env="Hopper-v5", agent=agent, online=online, log_every=environments * ROLLOUT_STEPS
    )


def ppo_parallel(window: Window) -> float:
    return ppo(window, ENVIRONMENTS, processes=2)


def gail(window: Window) -> float:
    """PPO's rollouts and updates as above, and as much of a discriminator as the other has: no penalty."""
    generator = {
        "hidden": SMALL_HIDDEN,
        "rollout_steps": ROLLOUT_STEPS,
        "epochs": EPOCHS,
        "minibatch_size": MINIBATCH_SIZE,
    }
    agent = {
        "generator": "ppo",
        "generator_options": generator,
        "reward": "positive",
        "absorbing": False,
        "hidden": SMALL_HIDDEN,
        "updates": DISCRIMINATOR_UPDATES,
        "gradient_penalty": 0.0,
    }
    window.tick(0)
    with store(DEMONSTRATIONS) as dataset:
        return train_until_over(
            Ticks(window),
            algo="gail",
            dataset=str(dataset.path),
            env="Hopper-v5",
            agent=agent,
            batch_size=DISCRIMINATOR_BATCH_SIZE,
            data={"normalize_observation": False},
            log_every=ROLLOUT_STEPS,
        )


def dqn(window: Window) -> float:
    agent = {
        "hidden": SMALL_HIDDEN,
        "learning_rate": 1e-4,
        "max_gradient_norm": 10.0,
        "target_rate": 1.0,
        "target_every": STEPS_PER_TARGET // STEPS_PER_UPDATE,
        "epsilon_start": EPSILON,
        "epsilon_end": EPSILON,
    }
    online = {
        "warmup_steps": ONLINE_WARM_UP_STEPS,
        "environments": 1,
        "updates_per_step": 1 / STEPS_PER_UPDATE,
    }
    return train_until_over(
        Ticks(window, ONLINE_WARM_UP_STEPS),
        algo="dqn",
        env="CartPole-v1",
        agent=agent,
        online=online,
        batch_size=DQN_BATCH_SIZE,
        log_every=500,
    )


def show_help(window: Window) -> float:
    """`offrl --help`, as the shell starts it."""
    return process_seconds(window, [str(Path(sys.executable).with_name("offrl")), "--help"])


def importance_sampling(window: Window, episodes: int) -> float:
    """Seconds for IS, PDIS, WIS and WPDIS from probabilities, with bootstrap intervals."""
    data = synthetic_choices(episodes)
    steps = np.arange(len(data.action))
    behavior = data.behavior[steps, data.action]
    ended = np.ones(episodes, dtype=bool)

    def work() -> None:
        log = EpisodeLog(
            data.reward,
            np.log(behavior),
            np.log(data.target[steps, data.action]),
            np.linspace(0, len(steps), episodes + 1).astype(np.int64),
            ended,
            ~ended,
            LOG_DISCOUNT,
        )
        estimate(log, ["is", "pdis", "wis", "wpdis"], interval="bootstrap-percentile", resamples=RESAMPLES)

    return median_seconds(window, work)


if __name__ == "__main__":
    rows = {
        "sampling": sampling,
        "sampling-blocks": sampling_blocks,
        "bc": bc,
        "bc-likelihood": bc_likelihood,
        "td3-bc": td3_bc,
        "td3-bc-seeds": lambda window: td3_bc(window, SEEDS),
        "iql": iql,
        "cql": cql,
        "edac": edac,
        "sac-n": sac_n,
        "rebrac": rebrac,
        "dt": decision_transformer,
        "td3-online": td3_online,
        "sac-online": sac_online,
        "ppo": ppo,
        "ppo-parallel": ppo_parallel,
        "gail": gail,
        "dqn": dqn,
        "ope-long": lambda window: importance_sampling(window, LOGGED_EPISODES),
        "ope-short": lambda window: importance_sampling(window, SHORT_EPISODES),
        "help": show_help,
    }
    main(rows, "offrl")
