"""imitation: behaviour cloning by its own `train`, whose data loader and Gaussian policy come with it."""

from __future__ import annotations

import contextlib

import gymnasium as gym
import numpy as np
from imitation.algorithms import bc as behaviour_cloning
from imitation.data.types import Transitions
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    DEMONSTRATIONS,
    ENDLESS,
    HIDDEN,
    OBSERVATION_DIM,
    Window,
    WindowOver,
    main,
    synthetic_episodes,
)
from stable_baselines3.common.policies import ActorCriticPolicy


def bc(window: Window) -> float:
    """Likelihood of a Gaussian policy, Adam; no progress bar, no logging beyond the first batch."""
    transitions = synthetic_episodes(DEMONSTRATIONS).transitions()
    demonstrations = Transitions(
        obs=transitions["observation"],
        acts=transitions["action"],
        next_obs=transitions["next_observation"],
        dones=transitions["terminated"],
        infos=np.array([{}] * len(transitions["reward"])),
    )
    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
    policy = ActorCriticPolicy(observation_space, action_space, lambda _: 1e-3, net_arch=list(HIDDEN))
    trainer = behaviour_cloning.BC(
        observation_space=observation_space,
        action_space=action_space,
        rng=np.random.default_rng(0),
        policy=policy,
        demonstrations=demonstrations,
        batch_size=BATCH_SIZE,
        device="cpu",
    )

    def on_batch_end() -> None:
        if not window.tick():
            raise WindowOver

    with contextlib.suppress(WindowOver):
        trainer.train(n_batches=ENDLESS, on_batch_end=on_batch_end, log_interval=ENDLESS, progress_bar=False)
    return window.rate


if __name__ == "__main__":
    main({"bc": bc}, "imitation")
