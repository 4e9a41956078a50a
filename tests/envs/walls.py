"""A room with a wall in the middle, and one door in it that can be elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.data.store import EpisodeBlock, StoreWriter
from offrl.types import Spec

SIZE, STEPS = 5, 20
DOOR_ABOVE, DOOR_BELOW = "offrl-test/DoorAbove-v0", "offrl-test/DoorBelow-v0"
MOVES = ((0, 0), (0, -1), (1, 0), (0, 1), (-1, 0))
"""Stay, left, down, right, up."""
GOAL = 2 * SIZE + 4
"""The cell in the middle of the right border."""


class Walls(gym.Env[int, int]):
    """A square of cells, with a wall between its second and third columns that one row has a door in.

    An episode starts left of the wall and takes 20 steps, whatever happens; each one that starts in the goal, right of
    it, earns 1.

    Args:
        door: the row of the door.
        rewards: earned where a step starts in each cell, in place of that 1.
    """

    def __init__(self, door: int, rewards: NDArray[Any] | None = None) -> None:
        self.observation_space, self.action_space = gym.spaces.Discrete(SIZE * SIZE), gym.spaces.Discrete(len(MOVES))
        self.rewards = np.eye(SIZE * SIZE)[GOAL] if rewards is None else np.asarray(rewards)
        self.following = np.array([[_moved(cell, move, door) for move in MOVES] for cell in range(SIZE * SIZE)])
        self.state = self.taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.taken = SIZE * int(self.np_random.integers(SIZE)) + int(self.np_random.integers(2)), 0
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward = float(self.rewards[self.state])
        self.state = int(self.following[self.state, int(action)])
        self.taken += 1
        return self.state, reward, False, self.taken == STEPS, {}


def _moved(cell: int, move: tuple[int, int], door: int) -> int:
    row, column = divmod(cell, SIZE)
    to_row, to_column = min(max(row + move[0], 0), SIZE - 1), min(max(column + move[1], 0), SIZE - 1)
    through_the_wall = {column, to_column} == {1, 2}
    return cell if through_the_wall and row != door else to_row * SIZE + to_column


gym.register(DOOR_ABOVE, entry_point=Walls, disable_env_checker=True, kwargs={"door": 0})
gym.register(DOOR_BELOW, entry_point=Walls, disable_env_checker=True, kwargs={"door": 4})


def soft_policy(following: NDArray[Any], rewards: NDArray[Any], scale: float) -> NDArray[Any]:
    """The policy that maximizes scale · reward + entropy over the steps that are left, [STEPS, cells, moves]."""
    value, policies = np.zeros(len(rewards)), []
    for _ in range(STEPS):
        q = scale * rewards[:, None] + value[following]
        value = np.log(np.exp(q).sum(axis=1))
        policies.append(np.exp(q - value[:, None]))
    return np.stack(policies[::-1])


def best_return(door: int) -> float:
    """The optimal mean return: by how far each starting cell is from the goal."""
    following, distance = Walls(door).following, np.full(SIZE * SIZE, np.inf)
    distance[GOAL] = 0.0
    for _ in range(SIZE * SIZE):
        distance = np.minimum(distance, 1.0 + distance[following].min(axis=1))
    starts = [SIZE * row + column for row in range(SIZE) for column in range(2)]
    return float(STEPS - distance[starts].mean())


def write_demonstrations(path: Path, episodes: int, scale: float = 4.0) -> Path:
    """Episodes of the soft expert where the door is above."""
    env, rng = Walls(0), np.random.default_rng(0)
    policy = soft_policy(env.following, env.rewards, scale)
    rows = STEPS + 1
    columns: dict[str, Any] = {
        "observation": np.zeros((episodes, rows), np.int64),
        "action": np.zeros((episodes, rows), np.int64),
        "reward": np.zeros((episodes, rows)),
        "terminated": np.zeros((episodes, rows), np.bool_),
        "truncated": np.zeros((episodes, rows), np.bool_),
    }
    columns["truncated"][:, STEPS - 1] = True
    for episode in range(episodes):
        shown, _ = env.reset(seed=episode)
        for step in range(STEPS):
            action = int(rng.choice(len(MOVES), p=policy[step, shown]))
            columns["observation"][episode, step], columns["action"][episode, step] = shown, action
            shown, columns["reward"][episode, step], *_ = env.step(action)
        columns["observation"][episode, STEPS] = shown
    with StoreWriter(path, Spec(env.observation_space, env.action_space), environment=DOOR_ABOVE) as writer:
        writer.append(EpisodeBlock({n: c.reshape(-1) for n, c in columns.items()}, np.full(episodes, STEPS)))
    return path
