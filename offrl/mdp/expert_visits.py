"""What demonstrations say of an expert in a finite Markov decision process: where it went, and what it did there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.errors import DataError, RequestError
from offrl.mdp.mdp import TabularMDP

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Demonstrations:
    """An expert's visits, and the process that it was seen in. What an inverse reinforcement learner learns from.

    Attributes:
        mdp: the process, started where the demonstrations start.
        visits: float64 [n, m]; Σ_t γ^t 1[s_t = s, a_t = a], averaged over the demonstrations.
        entered: float64 [n]; the same of the states that were entered.
    """

    mdp: TabularMDP
    visits: Tensor
    entered: Tensor


def visits_of(mdp: TabularMDP, states: list[Any], actions: list[Any], where: str = "") -> Demonstrations:
    """Count what an expert did. Its initial states take the place of the process's own.

    Steps behind the process's horizon are left out.

    Args:
        mdp: the process.
        states: for each episode int [T + 1]; the last one is the state that was entered at its end.
        actions: for each episode int [T].
        where: names the demonstrations in messages.

    Raises:
        RequestError: there are none.
        DataError: an episode has no steps, or does what the process can't do.
    """
    if not actions:
        raise RequestError("there are no demonstrations to learn from", where=where, hint="keep at least one episode")
    lengths = np.array([len(each) for each in actions], np.int64)
    if (lengths == 0).any():
        raise DataError(
            "an episode has no steps",
            where=f"{where}, episode {int(lengths.argmin())}".lstrip(", "),
            hint="leave empty episodes out",
        )
    state = np.concatenate([np.asarray(each[:-1]) for each in states]).astype(np.int64)
    following = np.concatenate([np.asarray(each[1:]) for each in states]).astype(np.int64)
    action = np.concatenate([np.asarray(each) for each in actions]).astype(np.int64)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(len(action)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    _check_possible(mdp, state, action, following, (episode, step), where)
    weight = mdp.discount ** step.astype(np.float64) / len(lengths)
    if mdp.horizon is not None:
        weight[step >= mdp.horizon] = 0.0
    initial = np.bincount([int(each[0]) for each in states], minlength=mdp.states) / len(states)
    visited = np.bincount(state * mdp.actions + action, weight, mdp.states * mdp.actions)
    return Demonstrations(
        mdp=replace(mdp, initial=torch.from_numpy(initial)),
        visits=torch.from_numpy(visited.reshape(mdp.states, mdp.actions)),
        entered=torch.from_numpy(np.bincount(following, weight, mdp.states)),
    )


def _check_possible(
    mdp: TabularMDP,
    state: Integers,
    action: Integers,
    following: Integers,
    place: tuple[Integers, Integers],
    where: str,
) -> None:
    inside = (state >= 0) & (state < mdp.states) & (action >= 0) & (action < mdp.actions)
    known = np.unique((mdp.origin * mdp.states + mdp.target).numpy())
    taken = (state * mdp.actions + action) * mdp.states + following
    wrong = np.flatnonzero(~(inside & (following >= 0) & (following < mdp.states) & np.isin(taken, known)))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"action {action[first]} in state {state[first]} led to state {following[first]}, which can't happen in "
            f"this process ({len(wrong)} such steps)",
            where=f"{where}, episode {place[0][first]}, step {place[1][first]}".lstrip(", "),
            hint="name the environment, with its very options, that the demonstrations were made in",
        )
