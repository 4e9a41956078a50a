"""Schedules of step sizes are options of every algorithm, and do what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from offrl import plugins
from offrl.agents.fine_tuning import without_decay
from offrl.errors import RecipeError
from offrl.nn import Schedule
from offrl.nn.state import modules_of
from offrl.testing.trial import Trial
from offrl.types import Scheduled, Spec
from tests.testing.test_check_agent import CASES

FIRST_CASES = {name: case for case in reversed(CASES.values()) for name in [case[0]]}


def trial(name: str, **schedule: Any) -> Trial:
    """Two updates of an algorithm with a schedule, its generator's too."""
    _, observed, acted, options = FIRST_CASES[name]
    record = plugins.algorithms[name]
    given = dict(options) | (schedule if issubclass(record.config, Schedule) else {})
    if record.wraps:
        given["generator_options"] = {**given.get("generator_options", {}), **schedule}
    return Trial.of(record, Spec(observed, acted), given, (0, 1), 2, None)


def moves(trial: Trial) -> list[list[float]]:
    """For each update, how far the farthest parameter of each network went."""
    agent = trial.agent()
    state = trial.start(agent)
    found = []
    for number in range(2):
        before = parameters(state)
        trial.update(agent, state, number)
        pairs = zip(before, parameters(state), strict=True)
        found.append([float((there - here).abs().max()) for here, there in pairs])
    return found


def parameters(state: Any) -> list[Tensor]:
    return [
        torch.cat([part.detach().flatten().double() for part in module.parameters()]) for module in modules_of(state)
    ]


@pytest.mark.parametrize("name", plugins.algorithms.own)
def test_a_warm_up_makes_the_first_steps_small(name: str) -> None:
    usual, warming = moves(trial(name))[0], moves(trial(name, warmup_steps=1_000_000))[0]
    slowed = [slow < 1e-3 * fast for slow, fast in zip(warming, usual, strict=True) if fast]
    # IQL's critics, value and target have no schedule, as in the paper.
    assert slowed.count(False) == (3 if name == "iql" else 0)
    assert any(slowed)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("name", plugins.algorithms.own)
def test_where_a_schedule_has_ended_nothing_moves_and_that_is_told(name: str, shape: str) -> None:
    ending = trial(name, decay_steps=1, decay_shape=shape)
    first, second = moves(ending)
    usual = moves(trial(name))[1]
    assert any(first)
    stopped = [not still and moved > 0.0 for still, moved in zip(second, usual, strict=True)]
    assert any(stopped)
    assert ending.algorithm.can(Scheduled)
    agent: Any = ending.agent()
    state = ending.start(agent)
    assert agent.ended_schedule(state) == 0
    ending.update(agent, state, 0)
    assert agent.ended_schedule(state) > 0


@pytest.mark.parametrize("name", plugins.algorithms.able(lambda record: bool(record.goes_on or record.wraps)))
def test_going_on_leaves_a_schedule_out(name: str) -> None:
    record = plugins.algorithms[name]
    options = trial(name, decay_steps=9, decay_shape="cosine").options
    gone = record.going_on(options, 100.0, True)
    for each in (gone, record.learner_options(gone)):
        if isinstance(each, Schedule):
            assert each.last_step == 0


def test_options_without_a_fall_have_no_shape_for_it_either() -> None:
    assert without_decay(Schedule(decay_steps=3, decay_shape="cosine", warmup_steps=2)) == Schedule(warmup_steps=2)


def test_a_recipe_with_a_shape_and_no_fall_is_refused_with_the_place() -> None:
    with pytest.raises(RecipeError, match=r"decay_shape is 'cosine'.*\n.*where: here.*\n.*set decay_steps"):
        plugins.algorithms["bc"].options({"decay_shape": "cosine"}, "here")
