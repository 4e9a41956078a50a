"""The online counterpart of a store: the newest steps of S seeds' environments, T+1 rows per episode."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]


class OnlineRing:
    """A fixed number of rows per environment, the oldest overwritten; transitions are drawn uniformly and exactly.

    Row t holds s_t, a_t, r_t and the flags that followed; the next row holds s_{t+1}: no observation is stored twice.
    Each seed draws from its own environments' rows only.

    Args:
        observation_dim: width of the (normalised, flat) observation.
        action_dim: width of the action.
        seeds: S.
        environments: E, environments per seed.
        capacity: rows per seed, shared evenly among its environments.
    """

    def __init__(self, observation_dim: int, action_dim: int, seeds: int, environments: int, capacity: int) -> None:
        self.observation_dim, self.action_dim = observation_dim, action_dim
        self.seeds, self.environments, self.length = seeds, environments, capacity // environments
        self.width = observation_dim + action_dim + 3
        streams = seeds * environments
        # One row more than the length: it mirrors row 0, so that each row's successor is the one behind it in memory.
        self.rows = np.zeros((streams, self.length + 1, self.width), np.float32)
        self.position = np.zeros(streams, np.int64)
        self.previous = np.full(streams, -1, np.int64)
        # Transitions of a seed, densely packed in any order: slot -> row within the seed, and back (-1: no transition).
        self.slots = np.zeros((seeds, environments * self.length), np.int32)
        self.slot_of = np.full((seeds, environments * self.length), -1, np.int32)
        self.count = np.zeros(seeds, np.int64)

    def begin(self, observation: FloatArray) -> None:
        """Start an episode in every environment; `observation` is [S·E, observation_dim]."""
        self._write_observation(np.arange(len(self.position)), observation)

    def append(
        self,
        action: FloatArray,
        reward: FloatArray,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_observation: FloatArray,
        reset_observation: FloatArray,
    ) -> None:
        """Add one step of every environment.

        Args:
            action: [S·E, action_dim], taken in the current observation.
            reward, terminated, truncated: [S·E].
            next_observation: [S·E, observation_dim]; where the episode ended, its final observation.
            reset_observation: like it; where the episode ended, the first observation of the next one.
        """
        streams = np.arange(len(self.position))
        tail = np.concatenate([action, np.stack([reward, terminated, truncated], axis=1)], axis=1)
        self._write_tail(streams, tail.astype(np.float32))
        self._add_transitions(streams)
        self.previous = self.position.copy()
        self._advance(streams)
        self._write_observation(streams, next_observation)
        (done,) = np.nonzero(terminated | truncated)
        if len(done):
            self._advance(done)
            self._write_observation(done, reset_observation[done])

    def cut(self) -> None:
        """End every running episode where it stands: truncated, so it still bootstraps; follow with `begin`."""
        streams = np.arange(len(self.position))
        (started,) = np.nonzero(self.previous >= 0)
        self.rows[started, self.previous[started], -1] = 1.0
        self._mirror(streams, self.previous)
        self._advance(streams)
        self.previous[:] = -1

    def sample(self, generators: list[torch.Generator], batches: int, batch_size: int) -> Tensor:
        """Indices of transitions, int64 [batches, S, batch_size], for `gather`."""
        draws = [
            torch.randint(int(count), (batches, batch_size), generator=generator)
            for count, generator in zip(self.count, generators, strict=True)
        ]
        return torch.stack(draws, dim=1)

    def gather(self, index: Tensor) -> Tensor:
        """Pairs of adjacent rows, [batches, S, batch_size, 2 · width]: a transition, then what followed it."""
        slots = torch.from_numpy(self.slots)
        seed = torch.arange(self.seeds)[:, None]
        row = slots.view(-1)[index + seed * slots.shape[1]].long()
        stream, offset = row // self.length + seed * self.environments, row % self.length
        flat = torch.from_numpy(self.rows).view(-1, self.width)
        pairs = flat.as_strided((len(flat) - 1, 2 * self.width), (self.width, 1))
        return pairs.index_select(0, (stream * (self.length + 1) + offset).view(-1)).view(*index.shape, 2 * self.width)

    def named_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        names = ("rows", "position", "previous", "slots", "slot_of", "count")
        return {name: torch.from_numpy(getattr(self, name)) for name in names}

    def _advance(self, streams: NDArray[np.int64]) -> None:
        self.position[streams] = (self.position[streams] + 1) % self.length
        self._remove_transitions(streams)

    def _write_observation(self, streams: NDArray[np.int64], observation: FloatArray) -> None:
        self.rows[streams, self.position[streams], : self.observation_dim] = observation
        self._mirror(streams, self.position[streams])

    def _write_tail(self, streams: NDArray[np.int64], tail: FloatArray) -> None:
        self.rows[streams, self.position[streams], self.observation_dim :] = tail
        self._mirror(streams, self.position[streams])

    def _mirror(self, streams: NDArray[np.int64], written: NDArray[np.int64]) -> None:
        first = streams[written == 0]
        self.rows[first, self.length] = self.rows[first, 0]

    def _add_transitions(self, streams: NDArray[np.int64]) -> None:
        for stream in streams:
            seed, row = self._locate(stream)
            slot = self.count[seed]
            self.slots[seed, slot], self.slot_of[seed, row] = row, slot
            self.count[seed] += 1

    def _remove_transitions(self, streams: NDArray[np.int64]) -> None:
        """Forget the transition that starts at the row about to be overwritten; the last slot fills the gap."""
        for stream in streams:
            seed, row = self._locate(stream)
            slot = self.slot_of[seed, row]
            if slot < 0:
                continue
            self.count[seed] -= 1
            moved = self.slots[seed, self.count[seed]]
            self.slots[seed, slot], self.slot_of[seed, moved] = moved, slot
            self.slot_of[seed, row] = -1

    def _locate(self, stream: int) -> tuple[int, int]:
        seed, environment = divmod(int(stream), self.environments)
        return seed, environment * self.length + int(self.position[stream])
