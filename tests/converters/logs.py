"""Random logs of transitions, and what they mean, worked out row by row: an oracle that shares nothing with offrl."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from offrl.data.store import TrajectoryStore


@dataclass
class Log:
    """Rows of transitions, episodes back to back; `end` is "terminal", "timeout", "both" or "" in each row."""

    observation: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: NDArray[np.float64]
    end: list[str]
    next_observation: NDArray[np.float32]
    episode: list[int]

    @property
    def terminated(self) -> NDArray[np.bool_]:
        return np.array([end in ("terminal", "both") for end in self.end])

    @property
    def truncated(self) -> NDArray[np.bool_]:
        return np.array([end in ("timeout", "both") for end in self.end])


@dataclass
class Expected:
    """One episode as it should be read: T + 1 observations, T of the rest, and how it ended."""

    observation: list[Any] = field(default_factory=list)
    action: list[Any] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False


def make_log(lengths: list[int], ends: list[str], seed: int) -> Log:
    """Episodes of these lengths that end so; every state differs from all others."""
    rng = np.random.default_rng(seed)
    observations, following, flags, numbers = [], [], [], []
    for number, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        states = rng.standard_normal((length + 1, 3)).astype(np.float32)
        observations += list(states[:-1])
        following += list(states[1:])
        flags += [""] * (length - 1) + [end]
        numbers += [number] * length
    rows = len(observations)
    return Log(
        observation=np.array(observations),
        action=rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        reward=rng.standard_normal(rows),
        end=flags,
        next_observation=np.array(following),
        episode=numbers,
    )


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Up to six episodes; only the last may end without a flag."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    endings = st.sampled_from(["terminal", "timeout", "both"])
    ends = [draw(endings) for _ in lengths[:-1]] + [draw(st.sampled_from(["terminal", "timeout", "both", ""]))]
    return make_log(lengths, ends, draw(st.integers(0, 2**16)))


def read_by_hand(log: Log, *, has_next: bool, timeouts: str = "keep") -> list[Expected]:
    """What the rows mean, one after the other."""
    episodes: list[Expected] = []
    current = Expected()
    for row in range(len(log.end)):
        current.observation.append(log.observation[row])
        current.action.append(log.action[row])
        current.reward.append(float(log.reward[row]))
        last = row == len(log.end) - 1
        if not log.end[row] and not last:
            continue
        terminated = log.end[row] in ("terminal", "both")
        timed_out = log.end[row] == "timeout"
        if timed_out and timeouts == "terminal":
            terminated = True
        if (timed_out and timeouts == "drop") or (not terminated and not has_next):
            current.action.pop()
            current.reward.pop()
        else:
            current.observation.append(log.next_observation[row] if has_next else log.observation[row])
        current.terminated = terminated
        current.truncated = log.end[row] == "both" or not terminated
        if current.action:
            episodes.append(current)
        current = Expected()
    return episodes


def assert_holds(store: TrajectoryStore, expected: list[Expected]) -> None:
    """The store's episodes are exactly these, bit for bit."""
    assert store.num_episodes == len(expected)
    for index, wanted in enumerate(expected):
        episode = store.episode(index)
        steps = len(wanted.action)
        np.testing.assert_array_equal(episode.observation, np.array(wanted.observation))
        np.testing.assert_array_equal(episode.action, np.array(wanted.action))
        np.testing.assert_array_equal(episode.reward, np.array(wanted.reward))
        assert episode.terminated.tolist() == [False] * (steps - 1) + [wanted.terminated]
        assert episode.truncated.tolist() == [False] * (steps - 1) + [wanted.truncated]


def write_d4rl(path: Path, log: Log, *, has_next: bool = True, has_timeouts: bool = True, **extra: Any) -> Path:
    """A file as D4RL writes it; `extra` names further arrays, None leaves a usual one out."""
    arrays: dict[str, Any] = {
        "observations": log.observation,
        "actions": log.action,
        "rewards": log.reward,
        "terminals": log.terminated,
    }
    if has_next:
        arrays["next_observations"] = log.next_observation
    if has_timeouts:
        arrays["timeouts"] = log.truncated
    with h5py.File(path, "w") as file:
        for key, value in {**arrays, **extra}.items():
            if value is not None:
                file[key.replace("__", "/")] = value
    return path
