"""Which environments are made: of those that live in a module, only what the user named is imported.

A Gymnasium id such as `my_envs:Arm-v0` names a module, and making the environment imports it, which runs its code.
Datasets, runs and cards hold such ids too, and may come from anybody. So `make` is the only place in offrl that makes
environments, and it imports a module only where the user named the id (`allowing`), or where it is that of a run that
the user trained on this machine (`remember`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offrl.documents import read_json
from offrl.errors import RequestError, UnsafeEnvironmentError
from offrl.files import home, write_whole

if TYPE_CHECKING:
    import gymnasium as gym
    from gymnasium.envs.registration import EnvSpec


_named: ContextVar[frozenset[str]] = ContextVar("named", default=frozenset())
_everything: ContextVar[bool] = ContextVar("everything", default=False)


@contextmanager
def allowing(*environments: str | None, everything: bool = False) -> Iterator[None]:
    """Within the block, let the modules of these environments be imported.

    Args:
        environments: Gymnasium ids that the user named; None for none.
        everything: the user allowed whatever a dataset or a run names, too.
    """
    named = _named.set(_named.get() | {environment for environment in environments if environment is not None})
    all_of_them = _everything.set(_everything.get() or everything)
    try:
        yield
    finally:
        _named.reset(named)
        _everything.reset(all_of_them)


def make(environment: str | EnvSpec, **options: Any) -> gym.Env[Any, Any]:
    """Make an environment, without Gymnasium's checks of what it does.

    Args:
        environment: a Gymnasium id, or what Gymnasium remembers of an environment that was made by one.
        options: Gymnasium's.

    Raises:
        UnsafeEnvironmentError: its module isn't imported yet, and the user didn't name it.
        RequestError: the id has more than one module.
    """
    import gymnasium

    if isinstance(environment, str):
        _require_allowed(environment)
        if module_of(environment) is not None and "" not in sys.path:
            # So that my_envs.py is found here, too. At the end, where it hides no installed module; and not before one
            # is named, for libraries try to import what isn't installed, and would find that in a folder of data.
            sys.path.append("")
    made: gymnasium.Env[Any, Any] = gymnasium.make(environment, disable_env_checker=True, **options)
    return made


def module_of(environment: str | None) -> str | None:
    """The module that an id names; None where it names none.

    Raises:
        RequestError: it names more than one.
    """
    module, *rest = (environment or "").split(":")
    if len(rest) > 1:
        raise RequestError(
            f"the environment {environment!r} can't be made: it names more than one module",
            hint="write MODULE:ID, such as my_envs:Arm-v0",
        )
    return module if rest else None


def _require_allowed(environment: str) -> None:
    module = module_of(environment)
    if module is None or module in sys.modules or _everything.get() or environment in _named.get():
        return
    raise UnsafeEnvironmentError(
        f"making the environment {environment!r} would import the module {module!r}, which you didn't name: "
        "a dataset or a run does",
        hint=f"if you'd let its author run code here, name it (--env {environment}), or allow what is named there "
        "(--trust; in Python trust=True). Training on a dataset needs no environment: --set env=none",
    )


def remember(run: Path, environment: str | None) -> None:
    """Note below `$OFFRL_HOME` that the user trained the run in a folder, in an environment that has a module."""
    if module_of(environment) is None:
        return
    note = _note(run)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(_identity(run) | {"environment": environment}))


def remembered(run: Path) -> str | None:
    """The environment that the user trained the run in, if it is that run: a copy elsewhere isn't."""
    try:
        known = read_json(_note(run))
        same = {key: known[key] for key in ("path", "inode")} == _identity(run)
        return str(known["environment"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _identity(run: Path) -> dict[str, Any]:
    return {"path": str(run.resolve()), "inode": run.stat().st_ino}


def _note(run: Path) -> Path:
    """The folder that it lies in is the user's own: whoever can write there needs no dataset to run code."""
    return home() / "trusted" / f"{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:32]}.json"
