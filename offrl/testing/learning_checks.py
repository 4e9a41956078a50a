"""Checks of updates: the seed axis, determinism, going on from a saved state, and tracing."""

from __future__ import annotations

import operator
import warnings
from dataclasses import replace
from typing import Any

from torch import Tensor

from offrl.nn.state import restore_state, state_tensors
from offrl.ops.trees import tree_leaves, tree_map
from offrl.testing.comparing import copy_of, require, require_close, require_same, values_of
from offrl.testing.trial import Trial, act
from offrl.tracing import Traced
from offrl.types import Batch, Metrics

TD_ERROR = "td_error"
"""The metric that has an axis in front of the seeds."""
TRACED_RTOL = 1e-6
"""Of the largest value in a tensor."""


def check_determinism(trial: Trial) -> None:
    """The same inputs come to the same bits, on an agent that did something before, and stay as they were.

    Metrics are [S, …] without a gradient, and all of the state's tensors stay where they are in memory.
    """
    agent = trial.agent()
    inputs, noise = copy_of(trial.inputs), copy_of(trial.noise)
    states, metrics = [], []
    for _ in range(2):
        state = trial.start(agent)
        initial, places = values_of(state), _places(state)
        metrics.append([copy_of(_checked(trial, trial.update(agent, state, i))) for i in range(len(trial.inputs))])
        require_same(trial.inputs, inputs, "batches must stay as they are, but an update changes them")
        require_same(trial.noise, noise, "draws must stay as they are, but an update changes them")
        for name, place in _places(state).items():
            require(
                places.get(name, place) == place,
                f"'{name}' is another tensor behind an update; change the state's tensors in place",
            )
        states.append(values_of(state))
        require(
            any(not _equal(initial[name], tensor) for name, tensor in states[-1].items() if name in initial),
            "no update changes anything that is saved of the state",
        )
    for name, tensor in states[0].items():
        require(bool(tensor.isfinite().all()), f"'{name}' of the state is no longer finite")
    what = "the same updates must come to the same bits, but a second time"
    require_same(metrics[1], metrics[0], f"{what}, metrics differ")
    require_same(states[1], states[0], f"{what}, the state differs")


def check_seed_axis(trial: Trial) -> None:
    """Training seeds together equals training each alone, and so does acting."""
    agent = trial.agent()
    together = trial.start(agent)
    initial = values_of(together)
    metrics = [copy_of(trial.update(agent, together, number)) for number in range(len(trial.inputs))]
    trained, observation = values_of(together), trial.data().observation(len(trial.seeds), 3)
    greedy, _ = act(agent, together, observation)
    for position, seed in enumerate(trial.seeds):
        single = trial.of_seed(position)
        alone = single.start(agent)
        _compare_seed(initial, values_of(alone), position, f"at the start, seed {seed} alone", exact=True)
        own = [single.update(agent, alone, number) for number in range(len(trial.inputs))]
        what = f"trained alone, seed {seed}"
        _compare_seed(trained, values_of(alone), position, what)
        for number, (ours, theirs) in enumerate(zip(metrics, own, strict=True)):
            part = {name: _of_seed(name, value, position) for name, value in ours.items()}
            require_close(theirs, part, f"{what} has other metrics than among others, in update {number}")
        own_part = slice(position, position + 1)
        action, _ = act(agent, alone, tree_map(operator.itemgetter(own_part), observation))
        require_close(action, greedy[own_part], f"{what} acts otherwise than among others")


def check_resume(trial: Trial) -> None:
    """What was saved half-way, and restored into a new agent's new state, goes on as what was never saved."""
    agent, half = trial.agent(), len(trial.inputs) // 2
    state = trial.start(agent)
    data = trial.data()
    observation = data.observation(len(trial.seeds), 3)
    draws = [data.normal(len(trial.seeds), 3, *agent.acting_noise_shape) for _ in range(2)]
    for number in range(half):
        trial.update(agent, state, number)
    act(agent, state, observation, noise=draws[0])
    trial.cut(agent, state)
    saved = values_of(state)
    other_agent = trial.agent()
    other = trial.start(other_agent)
    restore_state(other, saved, "the state, restored")
    trial.cut(other_agent, other)
    what = "going on from a saved state must be as if it had not been saved, but"
    found, _ = act(other_agent, other, observation, noise=draws[1])
    expected, _ = act(agent, state, observation, noise=draws[1])
    require_same(found, expected, f"{what} actions differ")
    for number in range(half, len(trial.inputs)):
        own, theirs = trial.update(other_agent, other, number), trial.update(agent, state, number)
        require_same(own, theirs, f"{what} metrics differ")
    require_same(values_of(other), values_of(state), f"{what} the state differs")


def check_rewards(trial: Trial) -> None:
    """What is said to read no rewards learns the same from others."""
    if trial.algorithm.reads_rewards:
        return
    agent = trial.agent()
    expected, state = values_of(trial.trained(agent)), trial.start(agent)
    for number, (inputs, noise) in enumerate(zip(trial.inputs, trial.noise, strict=True)):
        agent.update(state, [_rewarded_otherwise(batch, 1.0 + number) for batch in inputs], noise)
    require_same(values_of(state), expected, "the record says that no rewards are read, but with others")


def _rewarded_otherwise(batch: Any, more: float) -> Any:
    """A batch with other rewards; demonstrations in a table have none."""
    return replace(batch, reward=batch.reward + more) if isinstance(batch, Batch) else batch


def check_tracing(trial: Trial) -> None:
    """Updates that are traced and replayed come to what plain ones do."""
    agent = trial.agent()
    states = [trial.start(agent) for _ in range(2)]
    traced = Traced(agent, states[0])
    for number in range(len(trial.inputs)):
        found = copy_of(traced.update(trial.inputs[number], trial.noise[number]))
        expected = trial.update(agent, states[1], number)
        _close_by_scale(found, expected, f"traced, update {number} has other metrics")
        _close_by_scale(values_of(states[0]), values_of(states[1]), f"traced, update {number} comes to another state")
    if "runs as it is" in traced.explain():
        warnings.warn(f"updates can't be replayed, and take longer: {traced.explain()}", stacklevel=2)


def _checked(trial: Trial, metrics: Metrics) -> Metrics:
    """Metrics that are tensors [S, …] without a gradient."""
    for name, value in metrics.items():
        require(isinstance(value, Tensor), f"the metric '{name}' is a {type(value).__name__}, not a tensor")
        require(not value.requires_grad, f"the metric '{name}' has a gradient: detach it")
        axis = 1 if name == TD_ERROR else 0
        require(
            value.dim() > axis and value.shape[axis] == len(trial.seeds),
            f"the metric '{name}' is {list(value.shape)}; axis {axis} must be the {len(trial.seeds)} seeds",
        )
    return metrics


def _places(state: Any) -> dict[str, int]:
    """Where what outlives a call lies in memory; numbers are made tensors anew each time."""
    first, second = state_tensors(state), state_tensors(state)
    return {name: part.data_ptr() for name, part in first.items() if part.data_ptr() == second[name].data_ptr()}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _compare_seed(
    together: dict[str, Tensor], alone: dict[str, Tensor], position: int, what: str, *, exact: bool = False
) -> None:
    require(together.keys() == alone.keys(), f"{what} has other parts than among others")
    for name, tensor in alone.items():
        whole = together[name]
        part = whole if whole.dim() == 0 else whole[position : position + 1]
        compare = require_same if exact else require_close
        compare({name: tensor}, {name: part}, f"{what} isn't what it is among others")


def _of_seed(name: str, value: Tensor, position: int) -> Tensor:
    part = slice(position, position + 1)
    return value[:, part] if name == TD_ERROR else value[part]


def _close_by_scale(found: Any, expected: Any, what: str) -> None:
    """The same to a share of each tensor's largest value."""
    theirs = dict(tree_leaves(expected))
    for name, tensor in tree_leaves(found):
        other = theirs[name]
        scale = float(other.double().abs().max()) if other.numel() else 0.0
        require_close({name: tensor}, {name: other}, what, rtol=0.0, atol=TRACED_RTOL * max(scale, 1.0))
