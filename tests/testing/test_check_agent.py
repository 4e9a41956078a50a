"""The shared checks on every algorithm of offrl's, under options that make it small and turn much of it on."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl import plugins
from offrl.testing import check_agent
from offrl.types import Spec

BOX = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
UNIT = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
ENDLESS = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
CHOICE = gym.spaces.Discrete(4, start=2)
CHOICES = gym.spaces.MultiDiscrete([3, 2])
NESTED = gym.spaces.Dict(
    {"arm": gym.spaces.Dict({"joints": BOX, "mode": gym.spaces.Discrete(3)}), "bits": gym.spaces.MultiBinary(2)}
)
CAMERA = gym.spaces.Dict({"camera": gym.spaces.Box(0, 255, (9, 8, 2), np.uint8), "speed": BOX})
EYE = gym.spaces.Box(0, 255, (2, 8, 9), np.uint8)
TABLE = gym.spaces.Discrete(5)

SMALL: dict[str, Any] = {"hidden": (8, 6)}
REGULARIZED: dict[str, Any] = {**SMALL, "dropout": 0.2, "layer_norm": True, "activation": "tanh"}
RECURRENT: dict[str, Any] = {"width": 6, "context": 3}
# Adam's first steps magnify the rounding of gradients as small as those that transformers begin with.
ATTENTIVE: dict[str, Any] = {"width": 8, "layers": 2, "heads": 2, "context": 3, "learning_rate": 1e-5}
ASKED: dict[str, Any] = {"target_return": 3.0, "return_scale": 2.0, "timesteps": 5, "warmup_steps": 0}
LEFT_TO_DATA: dict[str, dict[str, Any]] = {"dt": ASKED}
"""Options whose defaults are what a dataset says, by algorithm: without one they must be set."""
ROLLOUT: dict[str, Any] = {**SMALL, "epochs": 2, "minibatch_size": 4}

CASES: dict[str, tuple[str, gym.Space[Any], gym.Space[Any], dict[str, Any]]] = {
    "bc": ("bc", BOX, UNIT, SMALL),
    "bc, nested": ("bc", NESTED, UNIT, {**REGULARIZED, "l1": 0.01, "l2": 0.01, "ema": 0.5}),
    "bc, gaussian": ("bc", BOX, ENDLESS, {**SMALL, "policy": "gaussian"}),
    "bc, squashed": ("bc", BOX, UNIT, {**SMALL, "policy": "squashed_gaussian", "entropy_bonus": 0.1}),
    "bc, choice": ("bc", BOX, CHOICE, SMALL),
    "bc, choices": ("bc", BOX, CHOICES, {**SMALL, "entropy_bonus": 0.1}),
    "bc-rnn": ("bc-rnn", BOX, UNIT, {**RECURRENT, "policy": "deterministic"}),
    "bc-rnn, nested": ("bc-rnn", NESTED, UNIT, {**RECURRENT, "cell": "gru", "policy": "squashed_gaussian"}),
    "bc-rnn, mixture": ("bc-rnn", BOX, ENDLESS, {**RECURRENT, "components": 3}),
    "bc-rnn, choice": ("bc-rnn", BOX, CHOICE, RECURRENT),
    "bc-rnn, choices": ("bc-rnn", BOX, CHOICES, {**RECURRENT, "cell": "gru", "layers": 1}),
    "bcq": ("bcq", BOX, CHOICE, SMALL),
    "bcq, everything": (
        "bcq",
        CAMERA,
        CHOICE,
        {**SMALL, "threshold": 0.8, "decay_steps": 9, "layer_norm": True, "target_every": 3},
    ),
    "bc-transformer": ("bc-transformer", BOX, UNIT, {**ATTENTIVE, "policy": "deterministic"}),
    "bc-transformer, nested": ("bc-transformer", NESTED, UNIT, {**ATTENTIVE, "policy": "squashed_gaussian"}),
    "bc-transformer, mixture": ("bc-transformer", BOX, ENDLESS, {**ATTENTIVE, "dropout": 0.0}),
    "bc-transformer, choices": ("bc-transformer", BOX, CHOICES, ATTENTIVE),
    "dagger": ("dagger", BOX, CHOICE, SMALL),
    "dqn": ("dqn", BOX, CHOICE, SMALL),
    "dqn, nested": ("dqn", NESTED, CHOICE, {**SMALL, "double": True, "target_every": 3}),
    "dqn, everything": (
        "dqn",
        CAMERA,
        CHOICE,
        {**REGULARIZED, "double": True, "dueling": True, "noisy": True, "conservative": 0.5, "decay_steps": 9},
    ),
    "bc, camera": ("bc", CAMERA, UNIT, {**REGULARIZED, "random_shift": 2, "ema": 0.5, "l2": 0.01}),
    "dqn, residual": ("dqn", CAMERA, CHOICE, {**SMALL, "convolutions": "impala"}),
    "irl": ("irl", TABLE, CHOICE, {}),
    "irl, network": ("irl", TABLE, CHOICE, {"hidden": (5,), "features": "state_action", "l2": 0.01}),
    "irl, paths": ("irl", TABLE, CHOICE, {"method": "maxent", "discount": 1.0}),
    "irl, apprenticeship": ("irl", TABLE, CHOICE, {"method": "apprenticeship"}),
    "ppo": ("ppo", BOX, UNIT, ROLLOUT),
    "ppo, squashed": (
        "ppo",
        NESTED,
        UNIT,
        {**ROLLOUT, "policy": "squashed_gaussian", "entropy_bonus": 0.1, "objective": "penalty", "dropout": 0.1},
    ),
    "ppo, choice": ("ppo", BOX, CHOICE, {**ROLLOUT, "normalize_observation": True, "scale_reward": True}),
    "ppo, choices": ("ppo", BOX, CHOICES, {**ROLLOUT, "max_kl": 0.01, "value_clip": 0.2}),
    "qrdqn": ("qrdqn", BOX, CHOICE, SMALL),
    "qrdqn, nested": ("qrdqn", NESTED, CHOICE, {**SMALL, "double": True, "target_every": 3, "quantiles": 1}),
    "qrdqn, everything": (
        "qrdqn",
        CAMERA,
        CHOICE,
        {**SMALL, "double": True, "dueling": True, "conservative": 0.5, "decay_steps": 9, "layer_norm": True},
    ),
    "sac": ("sac", BOX, UNIT, SMALL),
    "ppo, camera": ("ppo", CAMERA, CHOICE, {**ROLLOUT, "max_kl": 0.01, "dropout": 0.1}),
    "sac, camera": ("sac", CAMERA, UNIT, {**SMALL, "random_shift": 1, "bc_alpha": 1.0}),
    "sac, camera and choice": ("sac", EYE, CHOICE, {**SMALL, "value_network": True, "convolutions": ((4, 3, 2),)}),
    "sac, sde": ("sac", NESTED, UNIT, {**SMALL, "sde": True}),
    "sac, choice": ("sac", BOX, CHOICE, SMALL),
    "td3": ("td3", BOX, UNIT, SMALL),
    "td3, everything": (
        "td3",
        NESTED,
        UNIT,
        {**SMALL, "layer_norm": True, "dropout": 0.1, "bc_alpha": 2.5, "bc_decay": 0.9, "softmax_samples": 3},
    ),
    "td3, camera": ("td3", CAMERA, UNIT, {**SMALL, "random_shift": 1, "dropout": 0.1}),
    # Adam magnifies rounding where gradients are next to nothing, as those of rectified units are that seldom act.
    "td3, residual": ("td3", EYE, UNIT, {**SMALL, "convolutions": "impala", "activation": "silu"}),
    "iql, camera": ("iql", CAMERA, UNIT, {**SMALL, "random_shift": 1}),
    "iql": ("iql", BOX, UNIT, SMALL),
    "iql, squashed": ("iql", NESTED, UNIT, {**SMALL, "policy": "squashed_gaussian", "layer_norm": True}),
    "iql, choice": ("iql", NESTED, CHOICE, SMALL),
    "iql, choices": ("iql", BOX, CHOICES, {**SMALL, "layer_norm": True, "value_loss": "gumbel"}),
    "awac": ("awac", BOX, UNIT, SMALL),
    "awac, squashed": ("awac", NESTED, UNIT, {**SMALL, "policy": "squashed_gaussian", "layer_norm": True}),
    "td3bc": ("td3bc", BOX, UNIT, SMALL),
    "calql": ("calql", BOX, UNIT, {**SMALL, "samples": 3}),
    "calql, Lagrangian": ("calql", NESTED, UNIT, {**SMALL, "samples": 2, "threshold": 1.0}),
    "cql": ("cql", BOX, UNIT, {**SMALL, "samples": 3}),
    "cql, Lagrangian": ("cql", NESTED, UNIT, {**SMALL, "samples": 2, "threshold": 1.0}),
    "rebrac": ("rebrac", BOX, UNIT, {**SMALL, "policy_delay": 1, "penalty_decay": 0.9}),
    "rebrac, nested": ("rebrac", NESTED, UNIT, SMALL),
    # Directions of slopes magnify rounding where slopes are small, as those of a few rectified units are.
    "dt": ("dt", BOX, UNIT, {**ATTENTIVE, **ASKED}),
    "dt, nested": ("dt", NESTED, ENDLESS, {**ATTENTIVE, **ASKED, "dropout": 0.0, "heads": 1, "warmup_steps": 2}),
    "dt, choice": ("dt", BOX, CHOICE, {**ATTENTIVE, **ASKED}),
    "dt, choices": ("dt", BOX, CHOICES, {**ATTENTIVE, **ASKED, "activation": "gelu"}),
    "edac": ("edac", BOX, UNIT, {"hidden": [24, 24], "activation": "tanh", "critics": 4}),
    "edac, SAC-N": ("edac", NESTED, UNIT, {**SMALL, "critics": 6, "diversity": 0.0}),
    "rlpd": ("rlpd", BOX, UNIT, {**SMALL, "critics": 4, "policy_delay": 3}),
    "rlpd, no entropy": (
        "rlpd",
        NESTED,
        UNIT,
        {**SMALL, "critics": 3, "target_critics": 1, "policy_delay": 2, "entropy_in_targets": False},
    ),
    "gail, ppo": ("gail", BOX, UNIT, {**SMALL, "generator": "ppo", "generator_options": ROLLOUT}),
    "gail, sac": ("gail", BOX, CHOICE, {**SMALL, "generator": "sac", "generator_options": SMALL, "updates": 2}),
    "gail, td3": ("gail", BOX, UNIT, {**SMALL, "generator": "td3", "generator_options": SMALL}),
    "airl": ("airl", BOX, UNIT, {**SMALL, "generator_options": ROLLOUT}),
    "sqil, dqn": ("sqil", BOX, CHOICE, {"generator": "dqn", "generator_options": SMALL}),
    "sqil, sac": ("sqil", BOX, UNIT, {"generator": "sac", "generator_options": SMALL}),
}


@pytest.mark.parametrize(("name", "observed", "acted", "options"), CASES.values(), ids=CASES)
def test_an_algorithm_keeps_the_contract(
    name: str, observed: gym.Space[Any], acted: gym.Space[Any], options: dict[str, Any]
) -> None:
    started = time.process_time()
    check_agent(plugins.algorithms[name], Spec(observed, acted), options)
    assert time.process_time() - started < 5.0


def test_every_algorithm_is_checked() -> None:
    assert {name for name, *_ in CASES.values()} == set(plugins.algorithms.own)
