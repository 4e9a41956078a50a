"""Checks of acting: what actions are, what is remembered between them, and that it can be exported."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from offrl.nn.state import modules_of, restore_state
from offrl.ops.trees import reset_rows, tree_leaves, tree_map
from offrl.testing.comparing import require, require_close, require_same, values_of
from offrl.testing.random_data import chosen, columns_of
from offrl.testing.trial import Trial, act, lead_of, rows_of
from offrl.types import Agent, Observation, Spec

ROWS, EPISODE = 3, 4
"""Observations that are acted on at once, and one after the other."""
MASKED_ROWS = 64
EXPORTED_ROWS = (1, 5)
"""Rows that an exported policy is shown, after having been traced with `ROWS`."""


def check_greedy_acting(trial: Trial) -> None:
    """Without draws, acting is deterministic, changes nothing, and gives actions as batches have them."""
    agent = trial.agent()
    state = trial.trained(agent)
    before, seeds = values_of(state), len(trial.seeds)
    observation = trial.data().observation(seeds, ROWS)
    carry = agent.initial_carry(state, ROWS)
    for name, tensor in tree_leaves(carry):
        require(
            tensor.shape[:2] == (seeds, ROWS),
            f"the initial carry '{name}' is {list(tensor.shape)}; its first axes must be {seeds} seeds and {ROWS} rows",
        )
    first, remembered = act(agent, state, observation, carry)
    _require_action(trial.spec, first, (seeds, ROWS), greedy=True)
    require_same(values_of(state), before, "greedy acting must leave the state as it is, but")
    second, again = act(agent, state, observation, carry)
    require_same(second, first, "greedy acting must be deterministic, but a second time the action")
    require_same(again, remembered, "greedy acting must be deterministic, but a second time what it remembers")
    _require_like(remembered, carry)


def check_choices(trial: Trial) -> None:
    """Exploring is a function of its draws, in the action space; masks are kept to, where the record says so."""
    agent = trial.agent()
    state = trial.trained(agent)
    saved, data, seeds = values_of(state), trial.data(), len(trial.seeds)
    observation = data.observation(seeds, MASKED_ROWS)
    noise = data.normal(seeds, MASKED_ROWS, *agent.acting_noise_shape)
    masks: list[Tensor | None] = [None]
    if trial.learner.masks and not trial.spec.is_continuous:
        masks.append(data.mask(data.action(seeds, MASKED_ROWS)))
    for mask in masks:
        greedy, _ = act(agent, state, observation, mask=mask)
        explored, _ = act(agent, state, observation, noise=noise, mask=mask)
        restore_state(state, saved, "the state")
        again, _ = act(agent, state, observation, noise=noise, mask=mask)
        restore_state(state, saved, "the state")
        require_same(again, explored, "exploring with the same draws from the same state, the action")
        _require_action(trial.spec, explored, (seeds, MASKED_ROWS), greedy=False)
        if mask is not None:
            for action, how in ((greedy, "greedily"), (explored, "exploring")):
                forbidden = (chosen(trial.spec, action) & ~mask).any(dim=-1).sum()
                require(not forbidden, f"{int(forbidden)} of {mask[..., 0].numel()} actions taken {how} are forbidden")


def check_carry(trial: Trial) -> None:
    """Each row's episode is acted on as if it were alone; a row that is reset starts anew.

    Draws are given in the first step only: how much agents explore may go by all the steps that were taken.
    """
    agent = trial.agent()
    state = trial.trained(agent)
    saved, data, seeds = values_of(state), trial.data(), len(trial.seeds)
    episode = [data.observation(seeds, ROWS) for _ in range(EPISODE)]
    noise = data.normal(seeds, ROWS, *agent.acting_noise_shape)
    for draws in (None, noise):
        actions, carries = _episode(agent, state, episode, draws)
        restore_state(state, saved, "the state")
        for row in range(ROWS):
            part = slice(row, row + 1)
            own = [rows_of(observation, part) for observation in episode]
            found, kept = _episode(agent, state, own, None if draws is None else draws[:, part])
            restore_state(state, saved, "the state")
            for step, (action, carry) in enumerate(zip(found, kept, strict=True)):
                where = f"row {row} alone, in step {step}"
                require_close(action, actions[step][:, part], f"{where}, is acted on otherwise than among others")
                require_close(
                    carry, rows_of(carries[step], part), f"{where}, is remembered otherwise than among others"
                )
    _check_reset(agent, state, episode[-1], _episode(agent, state, episode[:-1], None)[1][-1])


def _episode(
    agent: Agent[Any, Any], state: Any, observations: list[Observation], noise: Tensor | None
) -> tuple[list[Tensor], list[Any]]:
    """Actions, and what is remembered behind each, from an episode's beginning; with draws for its first step."""
    _, rows = lead_of(observations[0])
    carry, actions, carries = agent.initial_carry(state, rows), [], []
    for observation in observations:
        action, carry = act(agent, state, observation, carry, noise)
        noise = None
        actions.append(action)
        carries.append(carry)
    return actions, carries


def _check_reset(agent: Agent[Any, Any], state: Any, observation: Observation, carry: Any) -> None:
    """In mid-episode the first row is reset."""
    seeds, rows = lead_of(observation)
    ended = torch.zeros(seeds, rows, dtype=torch.bool)
    ended[:, 0] = True
    initial = agent.initial_carry(state, rows)
    action, _ = act(agent, state, observation, reset_rows(carry, initial, ended))
    fresh, _ = act(agent, state, observation, initial)
    running, _ = act(agent, state, observation, carry)
    first, rest = slice(0, 1), slice(1, None)
    require_close(
        action[:, first], fresh[:, first], "a row whose episode ended must be acted on as at the start, but it"
    )
    require_close(action[:, rest], running[:, rest], "rows beside one whose episode ended must go on, but they")


def check_export(trial: Trial) -> None:
    """Greedy acting, traced with some rows by TorchScript, acts on others as the agent does."""
    agent = trial.agent()
    data = trial.data()
    state = trial.alone(agent, trial.trained(agent), 0)
    for module in modules_of(state):
        module.requires_grad_(False)
    example, carry = data.observation(1, ROWS), agent.initial_carry(state, ROWS)
    module = exported_module(agent, state, carry)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, (example, *_leaves(carry)), check_trace=False, strict=False)
        for rows in EXPORTED_ROWS:
            carry = agent.initial_carry(state, rows)
            remembered = _leaves(carry)
            for step in range(2):
                observation = data.observation(1, rows)
                action, carry = act(agent, state, observation, carry)
                exported, *remembered = traced(observation, *remembered)
                where = f"exported, acting on {rows} rows in step {step}"
                require_close(exported, action, f"{where}, the action")
                require_close(remembered, _leaves(carry), f"{where}, what is remembered")


class ActingModule(nn.Module):
    """One seed's greedy acting, from an observation and a carry's tensors to an action and the next carry's."""

    def __init__(self, agent: Agent[Any, Any], state: Any, carry: Any) -> None:
        super().__init__()
        self.agent, self.state, self.carry = agent, state, carry

    def forward(self, observation: Observation, *remembered: Tensor) -> tuple[Tensor, ...]:
        """[1, N, …] each."""
        places = iter(remembered)
        carry = tree_map(lambda _: next(places), self.carry)
        action, following = self.agent.act(self.state, observation, carry)
        return (action, *_leaves(following))


def exported_module(agent: Agent[Any, Any], state: Any, carry: Any) -> nn.Module:
    """What is traced for an export: a module of observation and carry."""
    return ActingModule(agent, state, carry)


def _leaves(carry: Any) -> list[Tensor]:
    return [tensor for _, tensor in tree_leaves(carry)]


def _require_like(carry: Any, initial: Any) -> None:
    """Whether a carry has the structure, shapes and types of an initial one, so that rows of it can be reset."""
    ours, theirs = dict(tree_leaves(carry)), dict(tree_leaves(initial))
    require(ours.keys() == theirs.keys(), f"acting remembers {sorted(ours)}, but at the start {sorted(theirs)}")
    for name, tensor in ours.items():
        kinds = [f"{each.dtype} {list(each.shape)}" for each in (tensor, theirs[name])]
        require(kinds[0] == kinds[1], f"acting remembers '{name}' as {kinds[0]}, but at the start it is {kinds[1]}")


def _require_action(spec: Spec, action: Tensor, lead: tuple[int, int], *, greedy: bool) -> None:
    """Whether actions are as batches have them; bounds are for greedy ones, as densities may reach beyond."""
    space = spec.action_space
    kind, shape = torch.int64, (*lead, *(space.shape or ()))
    if isinstance(space, gym.spaces.Box):
        kind, shape = torch.float32, (*lead, spec.action_dim)
    require(
        action.dtype == kind and tuple(action.shape) == shape,
        f"an action is {action.dtype} {list(action.shape)}, not {kind} {list(shape)}",
    )
    if not isinstance(space, gym.spaces.Box):
        inside = chosen(spec, action).sum(dim=-1) == columns_of(spec, action).shape[-1]
        require(bool(inside.all()), f"actions are outside of {space}")
        return
    require(bool(action.isfinite().all()), "actions are not finite")
    if greedy and space.is_bounded("both"):
        largest = float(action.abs().max())
        require(largest <= 1.0, f"greedy actions must lie in [-1, 1], and reach {largest:.3g}")
