"""The formats that can be converted, and which of them a path holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from offrl.converters.options import ConvertOptions
from offrl.converters.report import Log
from offrl.converters.source import Source
from offrl.errors import DatasetNotFoundError, RequestError, SourceError

Opener = Callable[[Path, ConvertOptions, Log], Source]


@dataclass(frozen=True)
class Format:
    """One source format.

    Attributes:
        description: one line for people.
        reader: `module:function` of its opener, imported when it is needed.
        suffixes: endings of its files' names.
    """

    description: str
    reader: str
    suffixes: tuple[str, ...] = ()

    def open(self, path: Path, options: ConvertOptions, log: Log) -> Source:
        """Understand a source of this format."""
        module, function = self.reader.split(":")
        opener: Opener = getattr(import_module(f"offrl.converters.readers.{module}"), function)
        return opener(path, options, log)


FORMATS: dict[str, Format] = {
    "d4rl": Format("D4RL: HDF5, one row per transition", "d4rl:open_d4rl", (".hdf5", ".h5")),
    "minari": Format("Minari: the folder of a dataset, HDF5 or Arrow", "minari:open_minari"),
    "ogbench": Format("OGBench: npz, T + 1 rows per trajectory", "npz:open_ogbench"),
    "imitation": Format(
        "imitation: trajectories as npz, or as a Hugging Face folder",
        "imitation:open_imitation",
    ),
    "npz": Format("NumPy archive, one row per transition", "npz:open_npz", (".npz",)),
    "csv": Format("table, one row per step", "table:open_csv", (".csv", ".tsv")),
    "parquet": Format("table, one row per step", "table:open_parquet", (".parquet", ".pq")),
    "jsonl": Format("table, one JSON object per line and step", "table:open_jsonl", (".jsonl", ".ndjson")),
    "paths": Format("pickled list of path dictionaries", "path_dicts:open_paths", (".pkl", ".pickle")),
}


def detect(path: Path) -> str:
    """The name of the format that a path seems to hold.

    Raises:
        DatasetNotFoundError: there is nothing at the path.
        RequestError: it is a store already.
        SourceError: it is none of the formats.
    """
    if not path.exists():
        raise DatasetNotFoundError("there is no such file or folder", where=str(path), hint="check the path")
    found = _detect_folder(path) if path.is_dir() else _detect_file(path)
    if found is None:
        raise SourceError(
            "the format of the source is not known", where=str(path), hint=f"name it with --from: {', '.join(FORMATS)}"
        )
    return found


def _detect_folder(path: Path) -> str | None:
    for folder in (path, path / "data"):
        metadata = folder / "metadata.json"
        if metadata.is_file() and "data_format" in _json_keys(metadata):
            return "minari"
    if (path / "state.json").is_file():
        from offrl.converters.readers.imitation import is_imitation_folder

        if is_imitation_folder(path):
            return "imitation"
    if "schema_version" in _json_keys(path / "metadata.json"):
        raise RequestError("this is a trajectory store already", where=str(path), hint="use it as it is")
    if (path / "steps.parquet").is_file():
        raise RequestError(
            "this is a dataset that offrl exported", where=str(path), hint="open it by its path, as it is"
        )
    return None


def _json_keys(path: Path) -> set[str]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return set(value) if isinstance(value, dict) else set()


def _detect_file(path: Path) -> str | None:
    with open(path, "rb") as file:
        start = file.read(8)
    if not start:
        raise SourceError("the file is empty", where=str(path), hint="copy or download it again")
    if start == b"\x89HDF\r\n\x1a\n":
        return "d4rl"
    if path.suffix.lower() == ".npz":
        from offrl.converters.readers.npz import detect_npz

        return detect_npz(path)
    if start.startswith(b"PAR1"):
        return "parquet"
    return next((name for name, item in FORMATS.items() if path.suffix.lower() in item.suffixes), None)
