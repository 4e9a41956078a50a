"""Episodes of whoever acts, a script, a human or a robot, stored as they end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl import __version__
from offrl.data import schema
from offrl.data.schema import flatten_space, flatten_value
from offrl.data.space_encoding import space_to_json
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.envs.handed_over import HandedOver
from offrl.envs.spaces import single_precision
from offrl.envs.vector import masks_told, tells_masks
from offrl.errors import RequestError
from offrl.files import require_free, whole_folder
from offrl.types import Spec

Row = dict[str, NDArray[Any]]


class RecordedEnvironment(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose every episode goes to a dataset when it ends, and is on the disk from then on.

    Closing it, as leaving its `with` block does, ends the running episode where it stands: what was done of it is kept
    as truncated. So does a reset within an episode. Where there were no steps, nothing is kept; where no episode was,
    there is no dataset.

    Args:
        env: the environment.
        path: the dataset's folder.
        environment: its Gymnasium id; None where it has none.
        source: who acts, such as "human"; the episodes' source in the dataset.
        append: go on with the dataset that is there.

    Attributes:
        path: the dataset's folder.
        recorded: episodes stored so far.

    Raises:
        RequestError: there is something at the path already, or the spaces are of a kind that can't be stored.
    """

    def __init__(
        self, env: gym.Env[Any, Any], path: Path, *, environment: str | None, source: str = "", append: bool = False
    ) -> None:
        super().__init__(env)
        if not append:
            require_free(path)
        self.path, self.source, self.append, self.recorded = path, source, append, 0
        # Policies act on float32, so that is what the data holds of float64 observations.
        self.stored = single_precision(Spec(env.observation_space, env.action_space))
        # Before the first episode, not behind it.
        space_to_json(self.stored.observation_space)
        space_to_json(self.stored.action_space)
        self.handed = HandedOver(environment or type(env.unwrapped).__name__, env.observation_space, 1)
        self.dtypes = {
            name: space.dtype
            for part, prefix in (
                (self.stored.observation_space, schema.OBSERVATION),
                (self.stored.action_space, schema.ACTION),
            )
            for name, space in flatten_space(part, prefix).items()
        }
        self.environment = environment
        self._writer: StoreWriter | None = None
        self._tells_masks: bool | None = None
        self._rows: list[Row] = []
        self._shown: Row | None = None
        self._seed = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; one that is running ends where it stands.

        Raises:
            EnvironmentFailedError: the environment failed, or gave something else than its spaces promise.
        """
        self._cut()
        ((observation, info),) = self.handed.reset([self.env], [0], seed=[seed], options=[options])
        self.handed.stacked([observation])
        if self._tells_masks is None:
            self._tells_masks = tells_masks(self.stored.action_space, [info])
        self._shown, self._seed = self._columns(observation, info), -1 if seed is None else seed
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step, which is recorded.

        Raises:
            RequestError: no episode is running.
            EnvironmentFailedError: the environment failed, or gave something else than its spaces promise; the episode
                ends in the step before.
        """
        if self._shown is None:
            raise RequestError("no episode is running, so there is no step to record", hint="call reset() first")
        # Before the step: who acts may use the array again.
        taken = self._flat(self.stored.action_space, action, schema.ACTION)
        told = self.handed.step([self.env], [action])
        self.handed.stacked(told.observation)
        (observation,), (info,) = told.observation, told.info
        reward, terminated, truncated = float(told.reward[0]), bool(told.terminated[0]), bool(told.truncated[0])
        ends = {schema.TERMINATED: np.asarray(terminated), schema.TRUNCATED: np.asarray(truncated)}
        self._rows.append({**self._shown, **taken, schema.REWARD: np.asarray(reward, np.float32), **ends})
        self._shown = self._columns(observation, info)
        if terminated or truncated:
            self._store()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """End the running episode, let others write to the dataset, and close the environment."""
        try:
            self._cut()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            super().close()

    def dataset(self) -> TrajectoryStore:
        """What was recorded so far.

        Raises:
            DatasetNotFoundError: no episode has ended yet.
        """
        return TrajectoryStore.open(self.path)

    def _columns(self, observation: Any, info: dict[str, Any]) -> Row:
        shown = self._flat(self.stored.observation_space, observation, schema.OBSERVATION)
        return {**shown, schema.ACTION_MASK: masks_told(self.action_space, [info])[0]} if self._tells_masks else shown

    def _flat(self, space: gym.Space[Any], value: Any, prefix: str) -> Row:
        """Copies of the parts of a value, as they are stored."""
        return {name: np.array(part, self.dtypes[name]) for name, part in flatten_value(space, value, prefix).items()}

    def _cut(self) -> None:
        """End the running episode where it stands."""
        if self._rows:
            self._rows[-1][schema.TRUNCATED] = np.asarray(True)
            self._store()
        self._shown = None

    def _store(self) -> None:
        """Write the episode that has ended, and forget it."""
        rows, final = self._rows, self._shown
        self._rows, self._shown = [], None
        assert final is not None
        last = {name: final.get(name, np.zeros_like(value)) for name, value in rows[0].items()}
        columns = {name: np.stack([row[name] for row in (*rows, last)]) for name in last}
        block = EpisodeBlock(
            columns,
            np.array([len(rows)]),
            seeds=np.array([self._seed], np.int64),
            sources=[self.source] if self.source else None,
        )
        if self._writer is None and (not self.append or not os.path.lexists(self.path)):
            # So that no dataset without episodes is left where this one can't be written, or the process ends.
            with whole_folder(self.path) as folder, self._open(folder, name=self.path.name) as first:
                first.append(block)
            self._writer = self._open(self.path)
        else:
            self._writer = self._writer or self._open(self.path)
            self._writer.append(block)
            self._writer.commit()
        self.recorded += 1

    def _open(self, folder: Path, name: str | None = None) -> StoreWriter:
        provenance = {"made_by": f"offrl {__version__} record", "source": self.source or None}
        return StoreWriter(
            folder, self.stored, environment=self.environment, provenance=provenance, name=name, append=True
        )
