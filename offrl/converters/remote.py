"""Names of datasets that live elsewhere, `d4rl:<id>` and `minari:<id>`: looked for here first, then fetched."""

from __future__ import annotations

import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from offrl.converters.minari_root import minari_folder, whole_minari_dataset
from offrl.errors import DatasetNotFoundError, RequestError
from offrl.files import naming, whole_path

_D4RL_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
_TIMEOUT = 20.0
"""Seconds to wait for a server to answer."""

_MUJOCO_FOLDERS = {0: "gym_mujoco", 1: "gym_mujoco_v1", 2: "gym_mujoco_v2"}
_D4RL_ID = re.compile(
    r"(?P<task>hopper|halfcheetah|walker2d|ant)-"
    r"(?P<kind>random|medium|expert|medium-replay|full-replay|medium-expert)-v(?P<version>[012])"
)
_D4RL_OTHER_ID = re.compile(
    r"antmaze-(umaze|umaze-diverse|(medium|large)-(play|diverse))-v[012]"
    r"|(pen|door|hammer|relocate)-(human|cloned|expert)-v[01]"
)
"""Tasks whose files have no address here."""

D4RL_REFERENCE_RETURNS: Mapping[str, tuple[float, float]] = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "pen": (96.262799, 3076.8331017826877),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
}
"""Returns of a random and an expert policy, which D4RL's v0, v1 and v2 tasks share (Fu et al., 2020)."""


@dataclass(frozen=True)
class Located:
    """A source that is here now.

    Attributes:
        path: the file or folder.
        label: what to call it in messages and provenance.
        format: its format, where the name tells.
        reference_scores: known from the name alone.
        notes: what the reader should know of it.
    """

    path: Path
    label: str
    format: str | None = None
    reference_scores: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def locate(source: str | os.PathLike[str]) -> Located:
    """Find a source: a path as it is, a prefixed name in its local folder or, failing that, from its server.

    Raises:
        DatasetNotFoundError: it is neither here nor could it be fetched; says where to put it by hand.
    """
    name = os.fspath(source)
    if name.startswith("d4rl:"):
        return _locate_d4rl(name)
    if name.startswith("minari:"):
        return _locate_minari(name)
    return Located(Path(name), name)


def d4rl_folder() -> Path:
    """Where D4RL files are kept: `$D4RL_DATASET_DIR`, or `~/.d4rl/datasets` as the `d4rl` package has it."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets")


def _locate_d4rl(name: str) -> Located:
    identifier = _checked_identifier(name)
    match = _D4RL_ID.fullmatch(identifier)
    scores, notes = _about_d4rl(identifier)
    url = _d4rl_url(match)
    folder = d4rl_folder()
    candidates = [folder / f"{identifier}.hdf5"] + ([folder / url.rpartition("/")[2]] if url else [])
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        if url is None:
            raise DatasetNotFoundError(
                f"'{name}' is not here, and only D4RL's MuJoCo files have an address that is known",
                where=str(candidates[0]),
                hint="download its HDF5 file and put it there under that name",
            )
        path = candidates[0]
        _download(url, path)
    return Located(path, name, "d4rl", scores, notes)


def _checked_identifier(name: str) -> str:
    identifier = name.partition(":")[2]
    if not re.fullmatch(r"[\w-]+(/[\w-]+)*", identifier):
        raise RequestError(f"'{name}' is not the name of a dataset", hint="write d4rl:hopper-medium-v2, for example")
    return identifier


def _about_d4rl(identifier: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The reference scores of a task, and notes on them and on its data; empty where the task isn't known."""
    if not (_D4RL_ID.fullmatch(identifier) or _D4RL_OTHER_ID.fullmatch(identifier)):
        return {}, ()
    task, _, kind = identifier.rpartition("-v")[0].partition("-")
    random, expert = D4RL_REFERENCE_RETURNS[task]
    scores = {"random": random, "expert": expert, "measured_on": "D4RL v0 environments"}
    notes = [
        "reference scores are D4RL's, measured on D4RL v0 environments: only roughly comparable with returns in "
        "today's Gymnasium environments"
    ]
    if kind in ("medium-expert", "medium-replay", "full-replay"):
        notes.append(f"'{kind}' holds episodes of more than one behavior policy")
    return scores, tuple(notes)


def _d4rl_url(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    version = int(match["version"])
    suffix = f"-v{version}" if version else ""
    kind = "mixed" if version == 0 and match["kind"] == "medium-replay" else match["kind"].replace("-", "_")
    return f"{_D4RL_URL}/{_MUJOCO_FOLDERS[version]}/{match['task']}_{kind}{suffix}.hdf5"


def _download(url: str, path: Path) -> None:
    """Fetch an HDF5 file whole or not at all."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_path(path) as partial:
        try:
            _fetch(url, partial)
        except (OSError, ValueError, HTTPException) as error:
            raise DatasetNotFoundError(
                f"{url} could not be fetched ({error})",
                where=str(path.parent),
                hint=f"download the file by other means and put it there as {path.name}",
            ) from error


def _fetch(url: str, path: Path) -> None:
    """Raises OSError unless an HDF5 file arrives in full."""
    import h5py

    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, open(path, "wb") as file:
        expected = int(response.headers.get("Content-Length") or 0)
        received = 0
        while piece := response.read(2**20):
            received += file.write(piece)
    if expected and received != expected:
        raise OSError(f"{received} of {expected} bytes arrived")
    if not h5py.is_hdf5(path):
        raise OSError("what arrived is no HDF5 file: perhaps a page that asks to sign in")


def _locate_minari(name: str) -> Located:
    identifier = _checked_identifier(name)
    folder = minari_folder() / identifier
    if not (folder / "data").is_dir():
        _download_minari(identifier, folder)
    return Located(folder, name, "minari")


def _download_minari(identifier: str, folder: Path) -> None:
    """Fetch a dataset whole or not at all, by Minari's own client."""
    with redirect_stdout(sys.stderr), whole_minari_dataset(identifier):
        try:
            import minari

            minari.download_dataset(identifier)
        except Exception as error:  # whatever the remote's client library raises
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DatasetNotFoundError(
                f"the Minari dataset '{identifier}' is not here and could not be fetched ({reason})",
                where=str(folder),
                hint=f"put its folder 'data' (metadata.json and the data files) into {folder}, or install what Minari "
                "downloads with: pip install 'minari[hf]'",
            ) from error
