"""stable-baselines3: its replay buffer, and its algorithms in the environments that they act in."""

from __future__ import annotations

import contextlib

import gymnasium as gym
import numpy as np
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    DQN_BATCH_SIZE,
    ENDLESS,
    ENVIRONMENTS,
    EPOCHS,
    EPSILON,
    HIDDEN,
    MINIBATCH_SIZE,
    OBSERVATION_DIM,
    ONLINE_WARM_UP_STEPS,
    ROLLOUT_STEPS,
    SAMPLING_EPISODES,
    SMALL_HIDDEN,
    STEPS_PER_TARGET,
    STEPS_PER_UPDATE,
    Window,
    WindowOver,
    main,
    steadily,
    synthetic_episodes,
)
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv


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


def sac_online(window: Window) -> float:
    model = SAC(
        "MlpPolicy",
        gym.make("Hopper-v5"),
        batch_size=BATCH_SIZE,
        learning_starts=ONLINE_WARM_UP_STEPS,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": list(HIDDEN)},
        device="cpu",
        seed=0,
    )
    model.learn(total_timesteps=ENDLESS, callback=Ticks(window))
    return window.rate


def dqn(window: Window) -> float:
    """The chance of random actions is constant, for it would else fall over the endless steps asked for."""
    model = DQN(
        "MlpPolicy",
        gym.make("CartPole-v1"),
        batch_size=DQN_BATCH_SIZE,
        learning_starts=ONLINE_WARM_UP_STEPS,
        train_freq=STEPS_PER_UPDATE,
        gradient_steps=1,
        target_update_interval=STEPS_PER_TARGET,
        exploration_initial_eps=EPSILON,
        exploration_final_eps=EPSILON,
        policy_kwargs={"net_arch": list(SMALL_HIDDEN)},
        device="cpu",
        seed=0,
    )
    model.learn(total_timesteps=ENDLESS, callback=Ticks(window))
    return window.rate


class RolloutTicks(BaseCallback):
    """Ticks where rollouts begin, so that steps count together with the update that learns from them."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window, self.counted = window, 0

    def _on_rollout_start(self) -> None:
        done, self.counted = self.num_timesteps - self.counted, self.num_timesteps
        if not self.window.tick(done):
            raise WindowOver

    def _on_step(self) -> bool:
        return True


def ppo(window: Window, environments: int = 1, kind: type[VecEnv] = DummyVecEnv) -> float:
    vector = make_vec_env("Hopper-v5", environments, seed=0, vec_env_cls=kind)
    model = PPO(
        "MlpPolicy",
        vector,
        n_steps=ROLLOUT_STEPS,
        batch_size=MINIBATCH_SIZE,
        n_epochs=EPOCHS,
        policy_kwargs={"net_arch": list(SMALL_HIDDEN)},
        device="cpu",
        seed=0,
    )
    with contextlib.closing(vector), contextlib.suppress(WindowOver):
        model.learn(total_timesteps=ENDLESS, callback=RolloutTicks(window))
    return window.rate


def ppo_dummy(window: Window) -> float:
    return ppo(window, ENVIRONMENTS)


def ppo_subproc(window: Window) -> float:
    return ppo(window, ENVIRONMENTS, SubprocVecEnv)


if __name__ == "__main__":
    rows = {
        "sampling": sampling,
        "td3-online": td3_online,
        "sac-online": sac_online,
        "ppo": ppo,
        "ppo-dummy": ppo_dummy,
        "ppo-subproc": ppo_subproc,
        "dqn": dqn,
    }
    main(rows, "stable-baselines3")
