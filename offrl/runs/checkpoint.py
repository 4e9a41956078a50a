"""Checkpoints: tensors in safetensors files, the rest in JSON; no kill, at whatever moment, loses the last one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from offrl.checksums import file_sha256, known_sha256
from offrl.errors import DiskFullError, RunError, StoreError
from offrl.files import whole_folder
from offrl.runs.records import CheckpointFacts, Checksummed, read_record

_FACTS, _CHECKSUMS = "facts.json", "checksums"


def write_checkpoint(directory: Path, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write `<part>.safetensors` for each part and `facts.json` to a directory that is whole or not there.

    The facts have the checksum of each file, and of themselves.

    Raises:
        DiskFullError: there was no room; what was there before is untouched.
        RunError: the directory can't be written for another reason.
    """
    try:
        with whole_folder(directory, overwrite=True) as folder:
            folder.mkdir()
            checksums = {_FACTS: _checksum(facts)}
            for name, tensors in parts.items():
                file = folder / f"{name}.safetensors"
                save_file(_apart(tensors), file)
                checksums[file.name] = file_sha256(file)
            written = {**facts, _CHECKSUMS: checksums}
            (folder / _FACTS).write_text(json.dumps(written, indent=1), encoding="utf-8")
    except (DiskFullError, SafetensorError) as error:
        # safetensors keeps the number of the error to itself; by then the directory has been made, so it is the room.
        raise DiskFullError(
            f"the checkpoint can't be written: {error.__cause__ or error}",
            where=str(directory),
            hint="free some space, then continue with --resume; the checkpoint before is intact",
        ) from error
    except StoreError as error:
        raise RunError(
            f"the checkpoint can't be written: {error.__cause__ or error}",
            where=str(directory),
            hint="check who may write there, then continue with --resume",
        ) from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two in the same memory, as those of tied weights are: safetensors refuses that."""
    found = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    end = 0
    for name, tensor in sorted(found.items(), key=lambda item: item[1].data_ptr()):
        if tensor.data_ptr() < end:
            found[name] = tensor.clone()
        else:
            end = tensor.data_ptr() + tensor.nbytes
    return found


def _checksum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_facts(directory: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint.

    Raises:
        RunError: it isn't there, can't be read, or has changed.
    """
    return _read(directory, CheckpointFacts)[0]


def read_part(directory: Path, part: str) -> dict[str, Tensor]:
    """The tensors of one part of a checkpoint.

    Raises:
        RunError: they aren't there, can't be read, or have changed.
    """
    file = directory / f"{part}.safetensors"
    written = _read(directory, Checksummed)[1].get(file.name)
    with _reading(directory):
        if written is not None:
            _require_unchanged(file, written)
        return load_file(file)


def verify_checkpoint(directory: Path) -> None:
    """Compare the checksums of all files of a checkpoint with those that were written.

    Raises:
        RunError: a file's content has changed, or it can't be read.
    """
    _, checksums = _read(directory, Checksummed)
    with _reading(directory):
        for file in directory.glob("*.safetensors"):
            if (written := checksums.get(file.name)) is not None:
                _require_unchanged(file, written)


@contextmanager
def putting_back(directory: Path) -> Iterator[None]:
    """Tell what can't take back its part of a checkpoint: each knows only itself what its tensors must be like.

    Raises:
        RunError: a part of the checkpoint isn't what was written.
    """
    try:
        yield
    except (LookupError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(
            f"the checkpoint can't be gone on from: {what}", where=str(directory), hint="start again from the data"
        ) from error


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunError(f"the checkpoint can't be read: {error}", where=str(directory), hint="choose another") from error


def _require_unchanged(file: Path, written: str) -> None:
    if known_sha256(file) != written:
        raise _changed(file)


def _read(directory: Path, kind: type[Checksummed]) -> tuple[dict[str, Any], dict[str, str]]:
    """The facts, and the checksums of the files, of which version 0.1.0 wrote none."""
    file = directory / _FACTS
    facts = read_record(file, kind, "the checkpoint", "choose another")
    checksums = facts.pop(_CHECKSUMS, None) or {}
    if checksums and checksums.get(_FACTS) != _checksum(facts):
        raise _changed(file)
    return facts, checksums


def _changed(file: Path) -> RunError:
    return RunError(
        "the checksum of the checkpoint's file isn't the one that was written: its content has changed",
        where=str(file),
        hint="restore it from a copy, or choose another checkpoint (--checkpoint last|best|step-N)",
    )
