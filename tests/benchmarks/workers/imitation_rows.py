"""imitation: behavior cloning and GAIL by their own `train`; data loaders and Gaussian policies come with it."""

from __future__ import annotations

import contextlib

import gymnasium as gym
import numpy as np
from imitation.algorithms import bc as behavior_cloning
from imitation.algorithms.adversarial.gail import GAIL
from imitation.data.types import Transitions
from imitation.rewards.reward_nets import BasicRewardNet
from imitation.util.networks import RunningNorm
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    DEMONSTRATIONS,
    DISCRIMINATOR_BATCH_SIZE,
    DISCRIMINATOR_UPDATES,
    ENDLESS,
    EPOCHS,
    HIDDEN,
    MINIBATCH_SIZE,
    OBSERVATION_DIM,
    ROLLOUT_STEPS,
    SMALL_HIDDEN,
    Window,
    WindowOver,
    main,
    synthetic_episodes,
)
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy


def demonstrated() -> Transitions:
    """The synthetic episodes."""
    transitions = synthetic_episodes(DEMONSTRATIONS).transitions()
    return Transitions(
        obs=transitions["observation"],
        acts=transitions["action"],
        next_obs=transitions["next_observation"],
        dones=transitions["terminated"],
        infos=np.array([{}] * len(transitions["reward"])),
    )


def bc(window: Window) -> float:
    """Likelihood of a Gaussian policy, Adam; no progress bar, no logging beyond the first batch."""
    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
    policy = ActorCriticPolicy(observation_space, action_space, lambda _: 1e-3, net_arch=list(HIDDEN))
    trainer = behavior_cloning.BC(
        observation_space=observation_space,
        action_space=action_space,
        rng=np.random.default_rng(0),
        policy=policy,
        demonstrations=demonstrated(),
        batch_size=BATCH_SIZE,
        device="cpu",
    )

    def on_batch_end() -> None:
        if not window.tick():
            raise WindowOver

    with contextlib.suppress(WindowOver):
        trainer.train(n_batches=ENDLESS, on_batch_end=on_batch_end, log_interval=ENDLESS, progress_bar=False)
    return window.rate


def gail(window: Window) -> float:
    """PPO's rollouts and updates, then the discriminator's; the observations it sees are normalized as they come.

    The Gymnasium that it needs has no Hopper-v5; the model and the step of Hopper-v4 are the same.
    """
    vector = make_vec_env("Hopper-v4", 1, seed=0)
    generator = PPO(
        "MlpPolicy",
        vector,
        n_steps=ROLLOUT_STEPS,
        batch_size=MINIBATCH_SIZE,
        n_epochs=EPOCHS,
        policy_kwargs={"net_arch": list(SMALL_HIDDEN)},
        device="cpu",
        seed=0,
    )
    discriminator = BasicRewardNet(
        vector.observation_space,
        vector.action_space,
        hid_sizes=SMALL_HIDDEN,
        normalize_input_layer=RunningNorm,
    )
    trainer = GAIL(
        demonstrations=demonstrated(),
        demo_batch_size=DISCRIMINATOR_BATCH_SIZE,
        n_disc_updates_per_round=DISCRIMINATOR_UPDATES,
        venv=vector,
        gen_algo=generator,
        reward_net=discriminator,
        allow_variable_horizon=True,
    )

    def after_round(_: int) -> None:
        if not window.tick(ROLLOUT_STEPS):
            raise WindowOver

    window.tick(0)
    with contextlib.suppress(WindowOver):
        trainer.train(ENDLESS, callback=after_round)
    return window.rate


if __name__ == "__main__":
    main({"bc": bc, "gail": gail}, "imitation")
