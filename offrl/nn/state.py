"""What an agent's state holds, by dotted name: all of it, or a refusal that names what can't be saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from offrl.errors import RunError
from offrl.nn.adam import Adam

_RETRAIN = "use the recipe that the run was made with, or train anew"
STATE, NUMBERS, GROUPS = "state", "numbers", "groups"
"""Where names of what an optimizer remembers begin: of a parameter, tensors and numbers; of a group, its options."""
NUMBER_TYPES: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}


def state_tensors(state: Any) -> dict[str, Tensor]:
    """All that a state holds as tensors: its own by reference, numbers as new ones without axes.

    A state is a dataclass of tensors, modules, optimizers, numbers, other states, and mappings and sequences of these;
    None holds nothing. Fields with the metadata `offrl.types.NOT_SAVED` are left out.

    Raises:
        RunError: something in it is of another kind; the message names it.

    Example:
        >>> state_tensors(BCState(...)).keys()
        dict_keys(['policy.layers.0.weight', ..., 'optimizer.steps', ..., 'l2'])
    """
    return _joined((_tensors_of(name, part) for name, part, _ in _parts(state, "the state")), "the state")


def restore_state(state: Any, saved: Mapping[str, Tensor], where: str) -> None:
    """Put saved values into a state of the same structure: tensors are copied into, so that views of them stay true.

    Args:
        state: changed in place.
        saved: what `state_tensors` gave.
        where: what to name in errors.

    Raises:
        RunError: names or shapes differ; nothing has been changed then.
    """
    parts = list(_parts(state, where))
    optimizers = {name: part for name, part, _ in parts if isinstance(part, torch.optim.Optimizer)}
    remembered = {
        name: {key.removeprefix(f"{name}."): saved[key] for key in saved if key.startswith(f"{name}.")}
        for name in optimizers
    }
    theirs = {f"{name}.{key}" for name, own in remembered.items() for key in own}
    targets = _joined((_tensors_of(name, part) for name, part, _ in parts if name not in optimizers), where)
    _require_alike(targets, {key: tensor for key, tensor in saved.items() if key not in theirs}, where)
    for name, optimizer in optimizers.items():
        _require_optimizer(optimizer, remembered[name], name, where)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(saved[name])
    for name, part, (container, key) in parts:
        if type(part) in NUMBER_TYPES:
            container[key] = type(part)(saved[name].item())
    for name, optimizer in optimizers.items():
        _restore_optimizer(optimizer, remembered[name])


def copy_state(target: Any, source: Any, where: str) -> None:
    """Make one state's values those of another one of the same structure; see `restore_state`."""
    restore_state(target, state_tensors(source), where)


def modules_of(state: Any) -> Iterator[nn.Module]:
    """The networks in a state, and in states within it."""
    return (part for _, part, _ in _parts(state, "the state") if isinstance(part, nn.Module))


Place = tuple[Any, Any]
"""A container and the key there; the container is None where it's a tuple, into which nothing can be put back."""


def _parts(state: Any, where: str) -> Iterator[tuple[str, Any, Place]]:
    """Name, value, and place of everything in a state that isn't a container."""
    if not dataclasses.is_dataclass(state) or isinstance(state, type):
        raise _refused("the state itself", state, where)
    return _walk(state, "", (None, None), where)


def _walk(part: Any, name: str, place: Place, where: str) -> Iterator[tuple[str, Any, Place]]:
    if part is None:
        return
    prefix = f"{name}." if name else ""
    if isinstance(part, Tensor | nn.Module | Adam | torch.optim.Optimizer):
        yield name, part, place
    elif type(part) in NUMBER_TYPES:
        if place[0] is None:
            raise _refused(name, part, where, " in a tuple, where it can't be put back")
        yield name, part, place
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        for field in dataclasses.fields(part):
            if field.metadata.get("saved", True):
                yield from _walk(vars(part)[field.name], prefix + field.name, (vars(part), field.name), where)
    elif isinstance(part, MutableMapping):
        for key in part:
            if not isinstance(key, str | int):
                raise _refused(name, key, where, " as a key")
            yield from _walk(part[key], f"{prefix}{key}", (part, key), where)
    elif isinstance(part, list):
        for i, item in enumerate(part):
            yield from _walk(item, f"{prefix}{i}", (part, i), where)
    elif isinstance(part, tuple):
        for i, item in enumerate(part):
            yield from _walk(item, f"{prefix}{i}", (None, i), where)
    else:
        raise _refused(name, part, where)


def _joined(groups: Iterable[Mapping[str, Tensor]], where: str) -> dict[str, Tensor]:
    """All of them in one mapping; raises `RunError` where two have a name."""
    tensors: dict[str, Tensor] = {}
    for group in groups:
        twice = tensors.keys() & group.keys()
        if twice:
            raise RunError(f"'{min(twice)}' is there twice", where=where, hint="let keys differ as text, without dots")
        tensors |= group
    return tensors


def _tensors_of(name: str, part: Any) -> dict[str, Tensor]:
    if isinstance(part, Tensor):
        return {name: _saveable(name, part)}
    if isinstance(part, nn.Module):
        found = {f"{name}.{key}": value for key, value in part.state_dict().items()}
        return {key: _saveable(key, value) for key, value in found.items()}
    if isinstance(part, Adam):
        return {f"{name}.{key}": tensor for key, tensor in part.named_tensors().items()}
    if isinstance(part, torch.optim.Optimizer):
        return {f"{name}.{key}": tensor for key, tensor in _optimizer_tensors(part, name).items()}
    return {name: _number(part)}


def _saveable(name: str, value: Any) -> Tensor:
    """A tensor that files can hold; modules may have other values beside theirs."""
    if not isinstance(value, Tensor):
        raise _refused(name, value, "the state")
    if value.layout is not torch.strided:
        raise _refused(name, value, "the state", kind="sparse tensor")
    return value


def _optimizer_tensors(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """What it remembers of each parameter, tensors and numbers, and those in its groups, which schedules change."""
    tensors: dict[str, Tensor] = {}
    whole = optimizer.state_dict()
    for i, values in whole["state"].items():
        for key, value in values.items():
            if type(value) in NUMBER_TYPES:
                tensors[f"{NUMBERS}.{i}.{key}"] = _number(value)
            elif value is not None:
                tensors[f"{STATE}.{i}.{key}"] = _saveable(f"{name}.{STATE}.{i}.{key}", value)
    for i, group in enumerate(whole["param_groups"]):
        for key, value in _numbers(group).items():
            tensors[f"{GROUPS}.{i}.{key}"] = value if isinstance(value, Tensor) else _number(value)
    return tensors


def _number(value: Any) -> Tensor:
    return torch.tensor(value, dtype=NUMBER_TYPES[type(value)])


def _numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """What of a group of parameters is a number or a tensor; pairs, as Adam's betas, are the constructor's."""
    return {key: value for key, value in group.items() if isinstance(value, Tensor) or type(value) in NUMBER_TYPES}


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Put back all that it remembered: into the tensors that it has; what it has none for yet is made."""
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in saved.items():
        section, index, name = key.split(".", 2)
        if section == GROUPS:
            group = whole["param_groups"][int(index)]
            group[name] = group[name].copy_(tensor) if isinstance(group[name], Tensor) else tensor.item()
        elif section == NUMBERS:
            state.setdefault(int(index), {})[name] = tensor.item()
        else:
            held = whole["state"].get(int(index), {}).get(name)
            state.setdefault(int(index), {})[name] = tensor.clone() if held is None else held.copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _require_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor], name: str, where: str) -> None:
    """Raise `RunError` unless what was saved is of such an optimizer; what it remembered may not be there yet."""
    whole = optimizer.state_dict()
    groups, parameters = whole["param_groups"], sum(len(group["params"]) for group in whole["param_groups"])
    unknown = {f"{GROUPS}.{i}" for i in range(len(groups))} - {key.rpartition(".")[0] for key in saved}
    for key, tensor in saved.items():
        section, index, option = (*key.split(".", 2), "", "")[:3]
        count = len(groups) if section == GROUPS else parameters
        known = section in (STATE, NUMBERS, GROUPS) and index.isdecimal() and int(index) < count
        if not known or (section == GROUPS and option not in groups[int(index)]):
            unknown.add(key)
        elif section == STATE:
            held = whole["state"].get(int(index), {}).get(option)
            if isinstance(held, Tensor):
                _require_shape(held, tensor, f"{name}.{key}", where)
    if unknown:
        raise _another(f"{where}: {', '.join(f'{name}.{key}' for key in sorted(unknown)[:5])}")


def _require_alike(targets: Mapping[str, Tensor], saved: Mapping[str, Tensor], where: str) -> None:
    if targets.keys() != saved.keys():
        raise _another(f"{where}: {', '.join(sorted(targets.keys() ^ saved.keys())[:5])}")
    for name, target in targets.items():
        _require_shape(target, saved[name], name, where)


def _require_shape(target: Tensor, saved: Tensor, name: str, where: str) -> None:
    if target.shape != saved.shape:
        raise RunError(
            f"'{name}' has shape {tuple(saved.shape)} in the checkpoint, {tuple(target.shape)} here",
            where=where,
            hint=_RETRAIN,
        )


def _another(where: str) -> RunError:
    return RunError("the checkpoint is of another agent or version", where=where, hint=_RETRAIN)


def _refused(name: str, part: Any, where: str, more: str = "", kind: str = "") -> RunError:
    return RunError(
        f"'{name}' is a {kind or type(part).__name__}{more}, which a checkpoint can't hold",
        where=where,
        hint="keep tensors, modules, optimizers, numbers, and mappings, lists and dataclasses of these in the state; "
        "mark what need not be saved with offrl.types.NOT_SAVED",
    )
