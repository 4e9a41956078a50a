"""Policies come back from checkpoints whole, one seed's as well as all, and those of former versions too."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from offrl import plugins
from offrl.config.recipe import recipe_from_dict
from offrl.errors import RecipeError, RunError, RunNotFoundError
from offrl.nn.state import state_tensors
from offrl.runs.checkpoint import read_facts, read_part, write_checkpoint
from offrl.runs.load import load_normalizer, load_policy, policy_of_seed, resolve_device, saved_state, spec_of
from offrl.runs.run import Run
from tests.runs.test_acting import untrained


def test_policies_come_back_as_they_were_saved(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "td3", "Pendulum-v1")
    policy, facts = load_policy(run, "last")
    saved = read_part(run.checkpoint("last"), "state")
    tensors = state_tensors(policy.state)
    assert tensors.keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in tensors.items())
    assert (policy.seeds, facts["step"], policy.masks, policy.frame_stack) == (2, 5, False, 1)
    assert policy.normalizer is not None
    np.testing.assert_allclose(policy.normalizer.mean[""], np.arange(3))
    assert spec_of(facts) == policy.agent.spec


def test_what_knows_masks_is_told_of_them(tmp_path: Path) -> None:
    """As the record of what acts says, be it held by another agent."""
    assert load_policy(untrained(tmp_path / "dqn", "dqn", "CartPole-v1"), "last")[0].masks
    agent = {"generator": "ppo", "generator_options": {"hidden": [8]}}
    run = untrained(tmp_path / "gail", "gail", "CartPole-v1", agent=agent, dataset="cartpole-expert")
    assert load_policy(run, "last")[0].masks == plugins.algorithms["ppo"].masks


def test_policies_without_a_normalizer_have_none(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "dqn", "CartPole-v1")
    assert load_normalizer(run.checkpoint("last")) is None
    assert load_policy(run, "last")[0].normalizer is None


@pytest.mark.parametrize("algo", ["td3", "ppo", "sac"])
def test_one_seed_s_policy_acts_as_it_does_among_the_others(algo: str, tmp_path: Path) -> None:
    policy, _ = load_policy(untrained(tmp_path / "run", algo, "Pendulum-v1"), "last")
    shown = policy.observe(np.random.default_rng(0).normal(size=(2 * 6, 3)))
    assert isinstance(shown, Tensor)
    together, _ = policy.act(shown, policy.initial_carry(6))
    for position, seed in enumerate((2, 7)):
        alone = policy_of_seed(policy, position, seed)
        assert alone.seeds == 1
        action, _ = alone.act(shown[position : position + 1], alone.initial_carry(6))
        torch.testing.assert_close(action[0], together[position], rtol=1e-5, atol=1e-6)
        # With parameters of its own.
        pointers = [{t.data_ptr() for t in state_tensors(each.state).values()} for each in (alone, policy)]
        assert not pointers[0] & pointers[1]


def damage(run: Run, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Write the last checkpoint again, with another state."""
    directory = run.checkpoint("last")
    facts = read_facts(directory)
    parts = {file.stem: read_part(directory, file.stem) for file in directory.glob("*.safetensors")}
    change(parts["state"])
    write_checkpoint(directory, parts, facts)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "td3", "Pendulum-v1")

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["actor.layers.0.bias"][0, 0] = value

    damage(run, spoil)
    with pytest.raises(RunError, match=r"'actor\.layers\.0\.bias' of the checkpoint is not finite"):
        load_policy(run, "last")


def test_what_sac_explored_by_in_former_versions_is_left_out(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "sac", "Pendulum-v1")

    def former(tensors: dict[str, Tensor]) -> None:
        tensors |= {"exploration": torch.zeros(2, 4), "acting_steps": torch.zeros(())}

    damage(run, former)
    policy, _ = load_policy(run, "last")
    assert not {"exploration", "acting_steps"} & state_tensors(policy.state).keys()


def test_a_state_that_has_such_parts_keeps_them(tmp_path: Path) -> None:
    """Their names may be those of another agent's parts today."""

    @dataclass
    class Exploring:
        exploration: Tensor

    state = {"exploration": torch.ones(3), "acting_steps": torch.ones(1)}
    write_checkpoint(tmp_path / "step-1", {"state": state}, {})
    found = saved_state(tmp_path / "step-1", Exploring(torch.zeros(3)))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"exploration": [1.0, 1.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("actor.layers.0.bias"), "another agent or version\n.*actor.layers.0.bias"),
        (lambda tensors: tensors.update(more=torch.zeros(2)), "another agent or version\n.*more"),
        (lambda tensors: tensors.update({"actor.layers.0.bias": torch.zeros(2, 1)}), "has shape"),
    ],
)
def test_a_state_that_is_not_the_agent_s_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "td3", "Pendulum-v1")
    damage(run, change)
    with pytest.raises(RunError, match=words) as raised:
        load_policy(run, "last")
    assert str(run.checkpoint("last")) in str(raised.value)


def test_checkpoints_that_are_not_there_are_told(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "td3", "Pendulum-v1")
    with pytest.raises(RunNotFoundError, match="no 'best' checkpoint"):
        load_policy(run, "best")
    facts = run.checkpoint("last") / "facts.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "normalized": True}))
    (run.checkpoint("last") / "normalizer.safetensors").unlink()
    with pytest.raises(RunError, match="the checkpoint can't be read"):
        load_policy(run, "last")


def test_devices_have_names() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(RecipeError, match="no device 'abacus'"):
        resolve_device("abacus")
    assert recipe_from_dict({"algo": "bc"}).device == "auto"
