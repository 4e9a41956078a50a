"""Every online step of a run, kept as a dataset: the environment's own observations, actions and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data import schema
from offrl.data.schema import flatten_value
from offrl.data.store import EpisodeBlock, StoreWriter
from offrl.envs.spaces import single_precision
from offrl.envs.vector import VectorStep
from offrl.files import require_no_link
from offrl.replay.frame_stack import newest
from offrl.types import Spec

FOLDER = "replay"
"""Where in a run directory its online steps are."""
FIRST_ROWS = 256
"""Vector steps that there is room for at first."""
BLOCK_ROWS = 2_048
"""Finished episodes go to the store together, once they have so many rows: each block costs as much as a step."""

Columns = dict[str, NDArray[Any]]


class EpisodeRecorder:
    """Appends every episode to a store when it ends, or is cut by a checkpoint (which counts as a truncation).

    A checkpoint holds the number of episodes that were committed before it. What a killed run recorded after its last
    checkpoint is taken out again when it goes on, since it then does those steps anew.

    Args:
        path: the store's folder.
        spec: the environment's spaces; float64 is stored as float32, which is what policies see.
        environment: its Gymnasium id.
        seeds: the run's seeds; the episodes' sources name them.
        per_seed: environments of each seed.
        provenance: how the data came to be; JSON values.
        frames: newest observations that the environments show together; the last of them is recorded.
    """

    def __init__(
        self,
        path: Path,
        spec: Spec,
        environment: str,
        seeds: Sequence[int],
        per_seed: int,
        provenance: dict[str, Any],
        frames: int = 1,
    ) -> None:
        self.path, self.space, self.frames = path, spec.observation_space, frames
        self.sources = [f"online, seed {seed}, environment {copy}" for seed in seeds for copy in range(per_seed)]
        self.kept = 0
        self._writer: StoreWriter | None = None
        self._options: dict[str, Any] = {
            "spec": single_precision(spec),
            "environment": environment,
            "provenance": provenance,
        }
        # Vector steps [capacity, S·E, …]; those of running episodes, and what ended since room was made last.
        self._steps: Columns = {}
        self._starts = np.zeros(len(self.sources), np.int64)
        self._length = self._capacity = 0
        self._observation: Columns = {}
        self._finished: list[tuple[str, Columns]] = []
        self._finished_rows = 0

    def begin(self, observation: Any, action_mask: NDArray[np.bool_] | None = None) -> None:
        """Start an episode in every environment, which shows `observation`, [S·E, …] and nested as its space is."""
        if self._writer is None:
            require_no_link(self.path)
            self._writer = StoreWriter(self.path, **self._options, append=True)
            self._writer.keep(self.kept)
        self._observation = self._flat(observation, action_mask)
        self._starts[:] = self._length = 0

    def append(self, action: NDArray[Any], step: VectorStep) -> None:
        """Add one step of every environment, and the episodes that end with it to the store."""
        columns = {
            **self._observation,
            schema.ACTION: action,
            schema.REWARD: step.reward,
            schema.TERMINATED: step.terminated,
            schema.TRUNCATED: step.truncated,
        }
        if self._length == self._capacity:
            self._make_room(columns)
        for name, values in columns.items():
            self._steps[name][self._length] = values
        self._length += 1
        self._observation = self._flat(step.observation, step.action_mask)
        if step.observation is not step.next_observation:
            final = self._flat(step.next_observation, step.next_action_mask)
            for stream in np.flatnonzero(step.terminated | step.truncated).tolist():
                self._finish(stream, final)

    def cut(self) -> None:
        """End every running episode where it stands; `begin` follows."""
        for stream in np.flatnonzero(self._starts < self._length).tolist():
            self._steps[schema.TRUNCATED][self._length - 1, stream] = True
            self._finish(stream, self._observation)

    def commit(self) -> None:
        """Cut, and write all that was recorded to the disk; what comes next is recorded after another `begin`."""
        self.cut()
        if self._writer is not None:
            self._hand_over()
            self._writer.commit()
            self.kept = self._writer.num_episodes

    def close(self) -> None:
        """Let other writers at the store."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def named_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: how many episodes were committed."""
        return {"episodes": torch.tensor(self.kept)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on behind the episodes that `named_tensors` counted; any others are taken out of the store."""
        self.kept = int(tensors["episodes"])

    def _flat(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> Columns:
        allowed = {} if action_mask is None else {schema.ACTION_MASK: action_mask}
        if isinstance(observation, np.ndarray) and self.frames == 1:
            return {schema.OBSERVATION: observation, **allowed}
        return {**newest(flatten_value(self.space, observation, schema.OBSERVATION), self.frames), **allowed}

    def _make_room(self, columns: Columns) -> None:
        """Drop the steps of episodes that are stored, and leave as much room again as the others take."""
        first, steps = int(self._starts.min()), self._steps
        running = slice(first, self._length)
        self._starts -= first
        self._length -= first
        self._capacity = max(FIRST_ROWS, 2 * self._length)
        self._steps = {}
        for name, values in columns.items():
            dtype = np.dtype(np.float32) if values.dtype == np.float64 else values.dtype
            self._steps[name] = np.empty((self._capacity, *values.shape), dtype)
            if name in steps:
                self._steps[name][: self._length] = steps[name][running]

    def _finish(self, stream: int, final: Columns) -> None:
        """Set aside one environment's steps since its last episode, with the final observation behind them."""
        start, length = int(self._starts[stream]), int(self._length - self._starts[stream])
        columns = {}
        for name, steps in self._steps.items():
            columns[name] = np.zeros((length + 1, *steps.shape[2:]), steps.dtype)
            columns[name][:-1] = steps[start : self._length, stream]
        for name, values in final.items():
            columns[name][-1] = values[stream]
        self._starts[stream] = self._length
        self._finished.append((self.sources[stream], columns))
        self._finished_rows += length + 1
        if self._finished_rows >= BLOCK_ROWS:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the finished episodes to the store's writer."""
        if not self._finished:
            return
        assert self._writer is not None
        sources, episodes = zip(*self._finished, strict=True)
        columns = {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
        lengths = np.array([len(episode[schema.REWARD]) - 1 for episode in episodes])
        self._writer.append(EpisodeBlock(columns, lengths, sources=list(sources)))
        self._finished, self._finished_rows = [], 0
