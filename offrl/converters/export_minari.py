"""Stores for others to read: Minari datasets."""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from offrl.converters.minari_root import minari_folder, whole_minari_dataset
from offrl.data import schema
from offrl.data.episode import Episode
from offrl.data.trajectories import Trajectories
from offrl.errors import DiskFullError, RequestError

_EPISODES_AT_ONCE = 256
_IDENTIFIER = re.compile(r"([\w-]+/)*[\w-]+-v\d+")


def export_minari(
    store: Trajectories,
    dataset_id: str,
    *,
    description: str = "",
    author: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a store as a local Minari dataset, which `minari.load_dataset` reads.

    It goes where Minari keeps datasets (`$MINARI_DATASETS_PATH`, or `~/.minari/datasets`), as HDF5. Images are stored
    without loss. `info.*`, `behavior_log_prob` and `action_mask` become infos.

    Args:
        store: a store or a selection from one.
        dataset_id: Minari's form, `(namespace/…/)name-vN`.
        description: goes into the dataset's metadata.
        author: likewise.
        overwrite: replace a Minari dataset of that id, once the new one is whole.

    Raises:
        RequestError: the id is not of that form or taken, or the extra `minari[create]` isn't installed.
        DiskFullError: there is no room; nothing is left behind.
    """
    _check_identifier(dataset_id, overwrite)
    try:
        import jax.tree_util  # noqa: F401  (Minari's writer needs it)
        import minari
    except ImportError as error:
        raise RequestError("writing Minari datasets needs its writer", hint="pip install 'minari[create]'") from error
    environment, scores = store.metadata.environment, store.metadata.reference_scores
    dataset = None
    folder = minari_folder()
    with whole_minari_dataset(dataset_id, overwrite=overwrite):
        _require_room(store, folder)
        for start in range(0, store.num_episodes, _EPISODES_AT_ONCE):
            stop = min(start + _EPISODES_AT_ONCE, store.num_episodes)
            buffers = [_buffer(index, store.episode(index)) for index in range(start, stop)]
            if dataset is not None:
                dataset.update_dataset_from_buffer(buffers)
                continue
            try:
                dataset = minari.create_dataset_from_buffers(
                    dataset_id,
                    buffers,
                    env=environment if environment in gym.registry else None,
                    observation_space=store.spec.observation_space,
                    action_space=store.spec.action_space,
                    ref_min_score=scores.get("random"),
                    ref_max_score=scores.get("expert"),
                    algorithm_name=store.metadata.provenance.get("algo"),
                    author=author,
                    description=description or f"Exported from the offrl dataset '{store.metadata.name}'.",
                    jpeg_encoding=False,
                )
            except (TypeError, ValueError) as error:
                raise RequestError(
                    f"Minari can't create '{dataset_id}': {error}",
                    hint="convert or choose a dataset that it takes",
                ) from error


def _check_identifier(dataset_id: str, overwrite: bool) -> None:
    place, hint = minari_folder() / dataset_id, "use an id that isn't taken, such as hopper/expert-v0"
    if not _IDENTIFIER.fullmatch(dataset_id):
        what = "it is not of the form name-vN"
    elif not os.path.lexists(place):
        return
    elif not overwrite:
        what, hint = "there is such a dataset already", f"{hint}, or say --overwrite"
    elif not place.is_symlink() and set(os.listdir(place)) != {"data"}:
        what = f"what is at {place} is no Minari dataset, or holds more than one"
    else:
        return
    raise RequestError(f"Minari can't create '{dataset_id}': {what}", hint=hint)


def _require_room(store: Trajectories, folder: Path) -> None:
    """HDF5 that finds the disk full can take the whole process down as it closes its file: better not to begin."""
    row = sum(column.dtype.itemsize * math.prod(column.shape) for column in store.metadata.columns)
    needed, free = row * (store.num_steps + store.num_episodes), shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(
            f"the dataset takes {needed:,} bytes, and there is room for {free:,}",
            where=str(folder),
            hint="free some space, then run the command again",
        )


def _buffer(index: int, episode: Episode) -> Any:
    from minari.data_collector import EpisodeBuffer

    return EpisodeBuffer(
        id=index,
        seed=episode.seed if episode.seed >= 0 else None,
        observations=episode.observation,
        actions=episode.action,
        rewards=episode.reward,
        terminations=episode.terminated,
        truncations=episode.truncated,
        infos=_infos(episode),
    )


def _infos(episode: Episode) -> dict[str, Any]:
    """T + 1 entries each, nested by the dots in their names; Minari's infos have as many entries as observations."""
    infos: dict[str, Any] = {}
    for name, values in episode.extras.items():
        *parents, leaf = name.removeprefix(f"{schema.INFO}.").split(".")
        table = infos
        for parent in parents:
            table = table.setdefault(parent, {})
        missing = len(episode.reward) + 1 - len(values)
        table[leaf] = np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
    return infos
