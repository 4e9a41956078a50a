"""Checkpoints: tensors in safetensors files, the rest in JSON; no kill, at whatever moment, loses the last one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from offrl.errors import DiskFullError, RunError, StoreError
from offrl.files import whole_folder
from offrl.nn import Adam


def state_tensors(state: Any) -> dict[str, Tensor]:
    """What checkpoints hold of an agent's state, by dotted name: networks, optimizers, tensors, other states."""
    tensors: dict[str, Tensor] = {}
    for field in dataclasses.fields(state):
        if not field.metadata.get("saved", True):
            continue
        part = getattr(state, field.name)
        if isinstance(part, Tensor):
            tensors[field.name] = part
        elif isinstance(part, nn.Module):
            tensors |= {f"{field.name}.{name}": tensor for name, tensor in part.state_dict().items()}
        elif isinstance(part, Adam):
            tensors |= {f"{field.name}.{name}": tensor for name, tensor in part.named_tensors().items()}
        elif dataclasses.is_dataclass(part):
            tensors |= {f"{field.name}.{name}": tensor for name, tensor in state_tensors(part).items()}
    return tensors


def restore_tensors(targets: Mapping[str, Tensor], saved: Mapping[str, Tensor], where: str) -> None:
    """Copy saved tensors into live ones of the same names and shapes.

    Raises:
        RunError: the two sets differ.
    """
    if targets.keys() != saved.keys():
        difference = ", ".join(sorted(targets.keys() ^ saved.keys())[:5])
        raise RunError("the checkpoint is of another agent or version", where=f"{where}: {difference}", hint=_RETRAIN)
    with torch.no_grad():
        for name, target in targets.items():
            if target.shape != saved[name].shape:
                raise RunError(
                    f"'{name}' has shape {tuple(saved[name].shape)} in the checkpoint, {tuple(target.shape)} here",
                    where=where,
                    hint=_RETRAIN,
                )
            target.copy_(saved[name])


_RETRAIN = "use the recipe that the run was made with, or train anew"


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
                contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
                save_file(contiguous, folder / f"{name}.safetensors")
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
