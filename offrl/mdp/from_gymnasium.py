"""Gymnasium's environments that are tables: FrozenLake, CliffWalking, Taxi, and whatever else has a table `P`."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from offrl.errors import RequestError
from offrl.mdp.mdp import TabularMDP


class Grid(NamedTuple):
    """States in rows and columns, numbered row by row.

    Attributes:
        rows, columns: how many.
        letters: what each cell is called, a text for each row; empty where nothing is known.
    """

    rows: int
    columns: int
    letters: list[str]


def mdp_of(environment: gym.Env[Any, Any], *, discount: float = 0.99, horizon: int | None = None) -> TabularMDP:
    """The Markov decision process of an environment with a table of transitions.

    Such a table `P` maps a state and an action to a list of (probability, next state, reward, whether it terminates),
    as those of Gymnasium's toy-text environments do. Their true rewards come along.

    Args:
        environment: with Discrete observations and actions that count from 0.
        discount: γ.
        horizon: steps after which every episode is cut; None takes the environment's own time limit, if it has one.

    Raises:
        RequestError: the environment has no such table.
    """
    name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
    table = getattr(environment.unwrapped, "P", None)
    spaces = environment.observation_space, environment.action_space
    if table is None or not all(isinstance(space, gym.spaces.Discrete) and space.start == 0 for space in spaces):
        raise RequestError(
            f"{name} isn't a table: its observations are {spaces[0]}, its actions {spaces[1]}",
            hint="tabular inverse reinforcement learning needs an environment with a table of transitions, such as "
            "FrozenLake-v1, CliffWalking-v1 or Taxi-v4; for others choose gail or airl",
        )
    states, actions = int(spaces[0].n), int(spaces[1].n)  # type: ignore[attr-defined]
    rows = [
        (state * actions + action, int(target), float(probability), float(reward), bool(ends))
        for state in range(states)
        for action in range(actions)
        for probability, target, reward, ends in table[state][action]
        if probability > 0.0
    ]
    origin, target, probability, reward, ends = (
        torch.from_numpy(np.array(column)) for column in zip(*rows, strict=True)
    )
    limit = environment.spec.max_episode_steps if environment.spec else None
    initial = np.asarray(getattr(environment.unwrapped, "initial_state_distrib", _uniform(states)), np.float64)
    return TabularMDP(
        states=states,
        actions=actions,
        origin=origin,
        target=target,
        probability=probability,
        ends=ends,
        initial=torch.from_numpy(initial / initial.sum()),
        reward=reward,
        discount=discount,
        horizon=limit if horizon is None else horizon,
    )


def grid_of(environment: gym.Env[Any, Any]) -> Grid | None:
    """How the states of an environment lie in a grid; None where they don't."""
    inner, space = environment.unwrapped, environment.observation_space
    shape = getattr(inner, "shape", None) or (getattr(inner, "nrow", 0), getattr(inner, "ncol", 0))
    if len(shape) != 2 or not isinstance(space, gym.spaces.Discrete) or int(np.prod(shape)) != int(space.n):
        return None
    described = np.asarray(getattr(inner, "desc", np.empty(0)))
    letters = ["".join(cell.decode() for cell in row) for row in described] if described.shape == tuple(shape) else []
    return Grid(int(shape[0]), int(shape[1]), letters)


def _uniform(states: int) -> list[float]:
    return [1.0 / states] * states
