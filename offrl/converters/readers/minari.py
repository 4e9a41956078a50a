"""Minari datasets (0.4 and 0.5): spaces through the `minari` package, arrays read in bulk from HDF5 or Arrow.

The package is given the spaces alone: of a folder whose metadata lacks them, it would make the environment that the
metadata names, and so run what its author wished.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from offrl.converters.formats import Format, json_keys
from offrl.converters.infer_spaces import check_columns, environment_spec
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import LIMIT_NOT_USED
from offrl.converters.readers.minari_layout import parts_of
from offrl.converters.report import Log
from offrl.converters.source import Source, check_kinds
from offrl.data import schema
from offrl.data.space_encoding import check_components
from offrl.documents import parse_json, read_json
from offrl.errors import SourceError
from offrl.types import Spec

_READERS = {"hdf5": "minari_hdf5", "arrow": "minari_arrow", "parquet": "minari_arrow"}
_HINT = "fetch the dataset again, or write it again with minari"


def open_minari(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand a local Minari dataset: the folder that holds `data`, or that folder itself.

    Raises:
        SourceError: it can't be read, or holds texts where numbers are needed.
        SpaceMismatchError: the environment that was named has other spaces.
    """
    folder = path / "data" if (path / "data").is_dir() else path
    metadata = _metadata(folder)
    form = str(metadata.get("data_format", "hdf5"))
    if form not in _READERS:
        raise SourceError(f"the data format '{form}' is not known", where=str(folder), hint=_HINT)
    reader = import_module(f"offrl.converters.readers.{_READERS[form]}")
    environment = _environment_id(metadata)
    spec = _spaces(metadata, folder, environment, options, log)
    jpeg = bool(metadata.get("jpeg_encoding", True))
    layout = reader.read_layout(folder, parts_of(spec, reader.tuple_key, jpeg=jpeg), options, log)
    if options.time_limit is not None:
        log.note(LIMIT_NOT_USED)
    check_kinds(layout.columns, layout.keys, str(folder))
    if options.environment is not None:
        environment, spec = options.environment, environment_spec(options.environment)
        check_columns(spec, layout.columns, environment=environment, where=str(folder))
        log.note(f"the spaces are those of {environment}")
    if any(leaf.jpeg for leaf in layout.leaves):
        log.warn("images were compressed with JPEG when the dataset was made: they differ a little from the originals")
    expected = metadata.get("total_episodes")
    if expected is not None and expected != len(layout.numbers):
        log.warn(f"the metadata speaks of {expected} episodes, {len(layout.numbers)} are there")
    label = str(metadata.get("dataset_id", path.name))
    return Source(
        spec=spec,
        rows=None,
        chunks=lambda: reader.chunks(folder, layout, label, log),
        environment=environment,
        keys=layout.keys,
        provenance={"minari": {key: metadata[key] for key in _PROVENANCE if key in metadata}},
        reference_scores=_reference_scores(metadata, environment),
    )


_PROVENANCE = (
    *("dataset_id", "minari_version", "algorithm_name", "author", "author_email", "code_permalink"),
    *("description", "combined_datasets", "env_spec"),
)


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    try:
        metadata = read_json(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"the dataset's metadata can't be read ({error})", where=str(path), hint=_HINT) from error
    if not isinstance(metadata, dict):
        raise SourceError("the dataset's metadata is no JSON object", where=str(path), hint=_HINT)
    return metadata


def _spaces(metadata: dict[str, Any], folder: Path, environment: str | None, options: ConvertOptions, log: Log) -> Spec:
    """The spaces as far as they can be stored: the metadata's, or those of the environment that the user named."""
    observation = _space(metadata, "observation_space", folder)
    action = _space(metadata, "action_space", folder)
    if observation is None or action is None:
        missing = "observation space" if observation is None else "action space"
        if options.environment is None:
            named = f"{environment}, if that is it" if environment else "a Gymnasium id"
            raise SourceError(
                f"the dataset's metadata holds no {missing}, and no environment is made because a dataset names it",
                where=str(folder),
                hint=f"name the environment that it was made in yourself: --env ID ({named})",
            )
        known = environment_spec(options.environment)
        observation, action = observation or known.observation_space, action or known.action_space
    return Spec(
        _without_texts(observation, schema.OBSERVATION, folder, log),
        _bounded(_without_texts(action, schema.ACTION, folder, log), options),
    )


def _space(metadata: dict[str, Any], key: str, folder: Path) -> gym.Space[Any] | None:
    """A space as the metadata spells it; None where it doesn't."""
    from minari.serialization import deserialize_space

    spelled = metadata.get(key)
    if spelled is None:
        return None
    try:
        check_components(parse_json(spelled))
        space: gym.Space[Any] = deserialize_space(spelled)
    except Exception as error:  # minari and Gymnasium assert what spaces are made of
        raise SourceError(
            f"the {key.replace('_', ' ')} can't be read ({type(error).__name__}: {error})",
            where=str(folder),
            hint=_HINT,
        ) from error
    return space


def _without_texts(space: gym.Space[Any], name: str, folder: Path, log: Log) -> gym.Space[Any]:
    if isinstance(space, spaces.Text):
        raise SourceError(
            f"the {name} is text, which a store can't hold", where=str(folder), hint="encode it as numbers first"
        )
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_without_texts(item, f"{name}.{i}", folder, log) for i, item in enumerate(space.spaces)])
    if not isinstance(space, spaces.Dict):
        return space
    kept = {}
    for key, item in space.spaces.items():
        if isinstance(item, spaces.Text):
            log.leave_out(f"{name}.{key}", "text, which a store can't hold")
        else:
            kept[key] = _without_texts(item, f"{name}.{key}", folder, log)
    return spaces.Dict(list(kept.items()))


def _bounded(space: gym.Space[Any], options: ConvertOptions) -> gym.Space[Any]:
    """The action space with the bounds that the user gave, if any."""
    if options.action_bounds is None or not isinstance(space, spaces.Box):
        return space
    low, high = options.action_bounds
    return spaces.Box(low, high, space.shape, np.dtype(space.dtype).type)


def _environment_id(metadata: dict[str, Any]) -> str | None:
    try:
        identifier = parse_json(metadata["env_spec"])["id"]
    except (KeyError, TypeError, ValueError):
        return None
    return str(identifier)


def _reference_scores(metadata: dict[str, Any], environment: str | None) -> dict[str, Any]:
    """The returns that came with the dataset, if both did."""
    random, expert = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if not (isinstance(random, int | float) and isinstance(expert, int | float)):
        return {}
    return {
        "random": float(random),
        "expert": float(expert),
        "measured_on": f"{environment or 'an environment not named'}, as the Minari dataset says",
    }


def is_minari(path: Path, start: bytes) -> bool:
    """Whether a folder is a Minari dataset, or the `data` of one."""
    return any("data_format" in json_keys(folder / "metadata.json") for folder in (path, path / "data"))


FORMAT = Format("Minari: the folder of a dataset, HDF5 or Arrow", open_minari, detect=is_minari)
