"""Checkpoints: tensors in safetensors files, the rest in JSON; no kill, at whatever moment, loses the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from offrl.documents import read_json
from offrl.errors import DiskFullError, RunError, StoreError
from offrl.files import whole_folder


def write_checkpoint(directory: Path, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write `<part>.safetensors` for each part and `facts.json` to a directory that is whole or not there.

    Raises:
        DiskFullError: there was no room; what was there before is untouched.
        RunError: the directory can't be written for another reason.
    """
    try:
        with whole_folder(directory, overwrite=True) as folder:
            folder.mkdir()
            for name, tensors in parts.items():
                save_file(_apart(tensors), folder / f"{name}.safetensors")
            (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
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


def read_facts(directory: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint.

    Raises:
        RunError: it isn't there or can't be read.
    """
    try:
        facts: dict[str, Any] = read_json(directory / "facts.json")
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
