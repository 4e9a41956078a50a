"""How options change where an algorithm goes on online, from its own run or behind a cloned policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym

from offrl.types import Spec

SMALL_ACTOR_STEP = 3e-5
"""Adam's, of policies that know something."""
LEFT_OF_ANCHOR = 0.5
"""What is left at the end of the weight of the distance from the data, by which the policies were pretrained. With a
hundredth, over 8,000 steps, TD3 that was pretrained on hopper-expert fell from 3240 to 150."""
INITIAL_LOG_STD = -1.0
"""Of a Gaussian policy that starts from a cloned one: wide enough to learn from, narrow enough to act like it."""


def without_decay(options: Any) -> Any:
    """Options whose step sizes stay: schedules are for training from scratch."""
    return dataclasses.replace(options, decay_steps=0, decay_shape="linear")


def let_go_of_data(options: Any, actor_steps: float, pretrained: bool) -> Any:
    """Options of an actor-critic that goes on: steady step sizes, small ones of a pretrained policy.

    Where it is held near the data (`bc_alpha`), and nothing lets go of that yet, `bc_decay` does so by and by.

    Args:
        options: of TD3, SAC or alike.
        actor_steps: of the policy, to come.
        pretrained: whether critics have learned from a dataset alone.
    """
    options = without_decay(options)
    if pretrained:
        options = dataclasses.replace(options, actor_learning_rate=min(options.actor_learning_rate, SMALL_ACTOR_STEP))
    if options.bc_alpha and options.bc_decay == 1.0 and actor_steps >= 1.0:
        options = dataclasses.replace(options, bc_decay=LEFT_OF_ANCHOR ** (1.0 / actor_steps))
    return options


def spare_clone(options: Any, **others: Any) -> Any:
    """Options of an actor-critic whose critics are fresh behind a cloned policy.

    A thousandth, Adam's first step for every weight, already ruins a clone, and what the batch holds keeps it from
    actions that the critics misjudge.

    Args:
        options: of TD3, SAC or alike.
        others: further options that change.
    """
    return dataclasses.replace(
        without_decay(options),
        actor_learning_rate=SMALL_ACTOR_STEP,
        critic_learning_rate=3e-4,
        layer_norm=True,
        bc_alpha=1.0,
        **others,
    )


def keep_steady(options: Any, updates: float, pretrained: bool) -> Any:
    """Options of any agent that goes on: those that it had, with steady step sizes."""
    return without_decay(options)


def keep_exploring_as_at_the_end(options: Any, updates: float, pretrained: bool) -> Any:
    """Options of an ε-greedy agent that goes on: exploration as it ended, and steady step sizes."""
    return dataclasses.replace(without_decay(options), epsilon_start=options.epsilon_end)


def explore_around_clone(options: Any, kind: str, spec: Spec) -> Any:
    """Options of a stochastic actor that is to start as a cloned policy.

    The data's statistics are in use already, and the policy sees the world through them: observations are not
    normalized anew.

    Args:
        options: of PPO or alike.
        kind: of the cloned policy; empty where there is none.
        spec: the spaces.
    """
    policy = exploring_kind(kind, spec) if kind else options.policy
    return dataclasses.replace(options, policy=policy, initial_log_std=INITIAL_LOG_STD, normalize_observation=False)


def exploring_kind(kind: str, spec: Spec) -> str:
    """The kind of policy that explores around a cloned one of this kind."""
    if kind != "deterministic":
        return kind
    space = spec.action_space
    return "squashed_gaussian" if isinstance(space, gym.spaces.Box) and space.is_bounded("both") else "gaussian"
