"""Small grid worlds with known rewards and a table of transitions, as environments and as processes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from offrl.mdp import TabularMDP, mdp_of
from offrl.types import Spec

GRID, SLIPPERY, TIMELESS = "offrl-test/Grid-v0", "offrl-test/SlipperyGrid-v0", "offrl-test/TimelessGrid-v0"
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
Table = dict[int, dict[int, list[tuple[float, int, float, bool]]]]


class Grid(gym.Env[int, int]):
    """Rows and columns of cells; moves are left, down, right, up, and against the border nothing happens.

    The reward is that of the cell entered: -0.1 in plain ones, -1 in a bog, 2 in the goal in the last corner, where the
    episode ends. It starts in the first corner or the cell right of it.

    Args:
        rows, columns: how many.
        slip: the chance that a move goes left or right of where it was meant to go, each half of it.
        bogs: cells with a bog.
    """

    def __init__(self, rows: int = 4, columns: int = 5, slip: float = 0.0, bogs: tuple[int, ...] = (7, 12)) -> None:
        self.shape = (rows, columns)
        self.observation_space, self.action_space = gym.spaces.Discrete(rows * columns), gym.spaces.Discrete(4)
        self.cell_rewards = np.full(rows * columns, -0.1)
        self.cell_rewards[list(bogs)] = -1.0
        self.cell_rewards[-1] = 2.0
        self.initial_state_distrib = np.zeros(rows * columns)
        self.initial_state_distrib[:2] = 0.75, 0.25
        self.P: Table = {
            state: {action: self._outcomes(state, action, slip) for action in range(4)}
            for state in range(rows * columns)
        }
        self.state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(len(self.cell_rewards), p=self.initial_state_distrib))
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        outcomes = self.P[self.state][int(action)]
        chosen = self.np_random.choice(len(outcomes), p=[outcome[0] for outcome in outcomes])
        _, self.state, reward, terminated = outcomes[chosen]
        return self.state, reward, terminated, False, {}

    def _outcomes(self, state: int, action: int, slip: float) -> list[tuple[float, int, float, bool]]:
        chances = {action: 1.0 - slip, (action + 1) % 4: slip / 2, (action - 1) % 4: slip / 2}
        rows, columns = self.shape
        outcomes = []
        for move, chance in chances.items():
            if chance == 0.0:
                continue
            row, column = divmod(state, columns)
            row, column = np.clip(row + MOVES[move][0], 0, rows - 1), np.clip(column + MOVES[move][1], 0, columns - 1)
            target = int(row * columns + column)
            outcomes.append((chance, target, float(self.cell_rewards[target]), target == rows * columns - 1))
        return outcomes


gym.register(GRID, entry_point=Grid, disable_env_checker=True, max_episode_steps=40)
gym.register(SLIPPERY, entry_point=Grid, disable_env_checker=True, max_episode_steps=40, kwargs={"slip": 0.2})
gym.register(TIMELESS, entry_point=Grid, disable_env_checker=True, kwargs={"slip": 0.2})


def grid(environment: str, *, discount: float = 0.95, horizon: int | None = None) -> tuple[TabularMDP, Spec]:
    """The process of a registered grid, and its spaces."""
    made = gym.make(environment)
    return mdp_of(made, discount=discount, horizon=horizon), Spec(made.observation_space, made.action_space)
