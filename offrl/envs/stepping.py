"""Copies of an environment, stepped in turn. Imports no PyTorch, so that processes that only step start quickly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray


class VectorStep(NamedTuple):
    """One step of N copies, each reset within the step that ended its episode.

    Attributes:
        next_observation: what the copies showed at the end of the step, before any reset; [N, …], nested as the space.
        reward: float64 [N].
        terminated, truncated: bool [N].
        observation: what to act on next; the very object `next_observation` where no episode ended.
    """

    next_observation: Any
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    observation: Any


class SerialEnvironments:
    """N copies of one environment in this process.

    Gymnasium's own vector environments also gather infos and copy observations, which takes longer than a step of
    CartPole does.

    Args:
        environment: a Gymnasium id, or what Gymnasium remembers of one.
        count: N.
        frame_stack: newest observations that are shown together; 1 shows each by itself.
        horizon: steps that every episode takes, see `FixedHorizon`; 0 leaves episodes as they are.
    """

    def __init__(self, environment: str | EnvSpec, count: int, frame_stack: int = 1, horizon: int = 0) -> None:
        self.copies = [make_single(environment, frame_stack) for _ in range(count)]
        if horizon:
            self.copies = [FixedHorizon(copy, horizon) for copy in self.copies]
        self.single_observation_space = self.copies[0].observation_space
        self.single_action_space = self.copies[0].action_space

    @property
    def count(self) -> int:
        return len(self.copies)

    def reset(self, seeds: Sequence[int]) -> Any:
        """Start an episode in each copy, from a seed of its own; returns the first observations, [N, …]."""
        shown = [copy.reset(seed=int(seed))[0] for copy, seed in zip(self.copies, seeds, strict=True)]
        return stack(self.single_observation_space, shown)

    def step(self, action: NDArray[Any]) -> VectorStep:
        """One step of every copy, with actions [N, …]."""
        reward = np.empty(len(self.copies))
        terminated, truncated = np.zeros(len(self.copies), np.bool_), np.zeros(len(self.copies), np.bool_)
        following, ended = [], []
        for i, copy in enumerate(self.copies):
            shown, reward[i], over, cut, _ = copy.step(action[i])
            following.append(shown)
            if over or cut:
                terminated[i], truncated[i] = over, cut
                ended.append(i)
        next_observation = stack(self.single_observation_space, following)
        observation = next_observation
        if ended:
            for i in ended:
                following[i], _ = self.copies[i].reset()
            observation = stack(self.single_observation_space, following)
        return VectorStep(next_observation, reward, terminated, truncated, observation)

    def close(self) -> None:
        for copy in self.copies:
            copy.close()


class FixedHorizon(gym.Wrapper[Any, Any, Any, Any]):
    """Episodes of one length: where the environment's own ends, it starts anew without telling.

    Args:
        env: the environment; its own time limit, if it has one, restarts it as well.
        horizon: steps after which an episode is truncated.
    """

    def __init__(self, env: gym.Env[Any, Any], horizon: int) -> None:
        super().__init__(env)
        self.horizon, self.taken = horizon, 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self.taken = 0
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; only the horizon ends the episode."""
        shown, reward, terminated, truncated, info = self.env.step(action)
        self.taken += 1
        over = self.taken == self.horizon
        if (terminated or truncated) and not over:
            shown, _ = self.env.reset()
        return shown, reward, False, over, info


def make_single(environment: str | EnvSpec, frame_stack: int, **options: Any) -> gym.Env[Any, Any]:
    """One copy; `options` are Gymnasium's."""
    copy: gym.Env[Any, Any] = gym.make(environment, disable_env_checker=True, **options)
    return copy if frame_stack == 1 else gym.wrappers.FrameStackObservation(copy, frame_stack)


def stack(space: gym.Space[Any], observations: Sequence[Any]) -> Any:
    """Observations of single copies as one of all, [N, …], nested as the space is."""
    if isinstance(space, gym.spaces.Box):
        stacked = np.empty((len(observations), *space.shape), space.dtype)
        for i, observation in enumerate(observations):
            stacked[i] = observation
        return stacked
    return concatenate(space, observations, create_empty_array(space, len(observations)))  # type: ignore[arg-type]
