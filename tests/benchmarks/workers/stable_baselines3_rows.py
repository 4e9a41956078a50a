"""stable-baselines3: its replay buffer, and TD3 on Hopper with one update for each environment step."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    ENDLESS,
    HIDDEN,
    OBSERVATION_DIM,
    ONLINE_WARM_UP_STEPS,
    SAMPLING_EPISODES,
    Window,
    main,
    steadily,
    synthetic_episodes,
)
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise


def sampling(window: Window) -> float:
    """Uniform batches; the arrays are filled directly, for a million `add` calls would take minutes."""
    transitions = synthetic_episodes(SAMPLING_EPISODES).transitions()
    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
    buffer = ReplayBuffer(len(transitions["reward"]), observation_space, action_space, device="cpu")
    buffer.observations[:, 0] = transitions["observation"]
    buffer.next_observations[:, 0] = transitions["next_observation"]
    buffer.actions[:, 0] = transitions["action"]
    buffer.rewards[:, 0] = transitions["reward"]
    buffer.dones[:, 0] = transitions["terminated"]
    buffer.full = True

    def step() -> int:
        buffer.sample(BATCH_SIZE)
        return BATCH_SIZE

    return steadily(window, step)


class Ticks(BaseCallback):
    """Ticks once for each environment step after the warm-up steps, which train nothing."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def _on_step(self) -> bool:
        return self.num_timesteps <= ONLINE_WARM_UP_STEPS or self.window.tick()


def td3_online(window: Window) -> float:
    model = TD3(
        "MlpPolicy",
        gym.make("Hopper-v5"),
        batch_size=BATCH_SIZE,
        learning_starts=ONLINE_WARM_UP_STEPS,
        train_freq=1,
        gradient_steps=1,
        policy_delay=2,
        action_noise=NormalActionNoise(np.zeros(ACTION_DIM), np.full(ACTION_DIM, 0.1)),
        policy_kwargs={"net_arch": list(HIDDEN)},
        device="cpu",
        seed=0,
    )
    model.learn(total_timesteps=ENDLESS, callback=Ticks(window))
    return window.rate


if __name__ == "__main__":
    main({"sampling": sampling, "td3-online": td3_online}, "stable-baselines3")
