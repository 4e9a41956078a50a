"""Checkpoints: tensors in safetensors files, the rest in JSON; no kill, at whatever moment, loses the last one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from offrl.data.shard import DISK_FULL
from offrl.errors import DiskFullError, OffrlError, RunError


def write_checkpoint(directory: Path, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write `<part>.safetensors` for each part and `facts.json`, under a temporary name, then rename it into place.

    Raises:
        DiskFullError: there was no room; what was there before is untouched.
        RunError: the directory can't be written for another reason.
    """
    temporary = directory.with_name(directory.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, tensors in parts.items():
            contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            save_file(contiguous, temporary / f"{name}.safetensors")
        (temporary / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(temporary, directory)
        _sync(directory.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _write_error(error, directory) from error


def _write_error(error: OSError | SafetensorError, directory: Path) -> OffrlError:
    # safetensors keeps the number of the error to itself; by then the directory has been made, so it is the room.
    if isinstance(error, OSError) and error.errno not in DISK_FULL:
        return RunError(
            f"the checkpoint can't be written: {error}",
            where=str(directory),
            hint="check who may write there, then continue with --resume",
        )
    return DiskFullError(
        f"the checkpoint can't be written: {error}",
        where=str(directory),
        hint="free some space, then continue with --resume; the checkpoint before is intact",
    )


def read_facts(directory: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint.

    Raises:
        RunError: it isn't there or can't be read.
    """
    try:
        facts: dict[str, Any] = json.loads((directory / "facts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"the checkpoint can't be read: {error}", where=str(directory), hint="choose another") from error
    return facts


def read_part(directory: Path, part: str) -> dict[str, Tensor]:
    """The tensors of one part of a checkpoint.

    Raises:
        RunError: they aren't there or can't be read.
    """
    try:
        return load_file(directory / f"{part}.safetensors")
    except (OSError, SafetensorError) as error:
        raise RunError(f"the checkpoint can't be read: {error}", where=str(directory), hint="choose another") from error


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file so that a reader sees the old or the new one, never a part."""
    temporary = path.with_name(path.name + ".partial")
    with naming(path):
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have errors of the system in the block say which file it was: a full disk, met in writing, doesn't."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
