"""Stores for others to read: Minari datasets."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from offrl.data import schema
from offrl.data.trajectories import Episode, Trajectories
from offrl.errors import RequestError

_EPISODES_AT_ONCE = 256


def export_minari(store: Trajectories, dataset_id: str, *, description: str = "", author: str | None = None) -> None:
    """Write a store as a local Minari dataset, which `minari.load_dataset` reads.

    It goes where Minari keeps datasets (`$MINARI_DATASETS_PATH`, or `~/.minari/datasets`), as HDF5. Images are stored
    without loss. `info.*`, `behavior_log_prob` and `action_mask` become infos.

    Args:
        store: a store or a selection from one.
        dataset_id: Minari's form, `(namespace/…/)name-vN`.
        description: goes into the dataset's metadata.
        author: likewise.

    Raises:
        RequestError: the id is not of that form or taken, or the extra `minari[create]` isn't installed.
    """
    try:
        import jax.tree_util  # noqa: F401  (Minari's writer needs it)
        import minari
    except ImportError as error:
        raise RequestError("writing Minari datasets needs its writer", mend="pip install 'minari[create]'") from error
    environment, scores = store.metadata.environment, store.metadata.reference_scores
    dataset = None
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
        except (TypeError, ValueError) as error:  # Minari meets an id without a version with a TypeError
            raise RequestError(
                f"Minari can't create '{dataset_id}': {error}",
                mend="use an id that isn't taken, such as hopper/expert-v0",
            ) from error


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
