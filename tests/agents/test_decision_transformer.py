"""Decision Transformer against a plain implementation, what it remembers, and what follows from the data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offrl.agents.decision_transformer import ALGORITHM, DecisionTransformer, DTConfig, DTState
from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.deploy.export import export_policy
from offrl.errors import RecipeError
from offrl.feeds import open_problem
from offrl.runs.listener import SilentListener
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.run_training import train
from offrl.types import Batch, Density
from tests.agents.batches import CPU, continuous, discrete, multi_discrete, no_values_read, of_seed, random_noise
from tests.agents.windows import random_windows, with_other_padding
from tests.nn.test_transformer import plain
from tests.training.runs import bc_recipe, make_demonstrations

SMALL = DTConfig(
    target_return=3.0,
    return_scale=2.0,
    timesteps=6,
    context=4,
    width=8,
    layers=2,
    heads=2,
    dropout=0.0,
    learning_rate=1e-3,
    warmup_steps=3,
)


class Plain(nn.Module):
    """The authors' network in plain torch, with the weights of one seed."""

    def __init__(self, state: DTState, seed: int) -> None:
        super().__init__()
        network = state.network
        self.blocks = plain(network.transformer, seed)
        self.embed_return, self.embed_state, self.embed_action = nn.Linear(1, 8), nn.Linear(3, 8), nn.Linear(2, 8)
        self.embed_timestep, self.embed_ln, self.predict = nn.Embedding(6, 8), nn.LayerNorm(8), nn.Linear(8, 2)
        with torch.no_grad():
            for theirs, ours in (
                (self.embed_return, network.return_to_go),
                (self.embed_state, network.observation),
                (self.embed_action, network.action),
                (self.predict, network.head),
            ):
                theirs.weight.copy_(ours.weight[seed, 0])
                theirs.bias.copy_(ours.bias[seed, 0, 0])
            self.embed_timestep.weight.copy_(network.time.weight[seed])
            self.embed_ln.weight.copy_(network.norm.gain[seed, 0, 0])
            self.embed_ln.bias.copy_(network.norm.offset[seed, 0, 0])

    def forward(self, batch: Batch) -> Tensor:
        """Actions [B, K, A] for the windows of a single seed."""
        assert batch.timestep is not None
        assert batch.return_to_go is not None
        assert isinstance(batch.observation, Tensor)
        when = self.embed_timestep(batch.timestep[0].clamp(max=5))
        returns = self.embed_return(batch.return_to_go[0].unsqueeze(-1) / 2.0) + when
        states = self.embed_state(batch.observation[0]) + when
        actions = self.embed_action(batch.action[0]) + when
        tokens = torch.stack([returns, states, actions], dim=1).permute(0, 2, 1, 3).reshape(len(when), -1, 8)
        later = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        hidden = self.blocks(self.embed_ln(tokens), mask=later)
        output: Tensor = self.predict(hidden.reshape(len(when), -1, 3, 8)[:, :, 1]).tanh()
        return output


def with_returns(batches: list[Batch]) -> list[Batch]:
    """Windows with what is still to be earned in each step."""
    generator = torch.Generator().manual_seed(4)
    return [
        dataclasses.replace(batch, return_to_go=torch.randn(batch.reward.shape, generator=generator))
        for batch in batches
    ]


def random_state(agent: DecisionTransformer, seeds: tuple[int, ...]) -> DTState:
    """With weights far from their small beginning, whose gradients Adam's first steps would magnify the rounding of."""
    state = agent.init(seeds, CPU)
    flat = state.network.flat
    with torch.no_grad():
        flat.add_(0.3 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1)))
    return state


def test_updates_equal_a_plain_implementation() -> None:
    seeds = (3, 8)
    agent = DecisionTransformer(SMALL, continuous())
    state = random_state(agent, seeds)
    batches = with_returns(random_windows(agent.spec, 5, len(seeds)))
    plains, untrained = ([Plain(state, position) for position in range(len(seeds))] for _ in range(2))
    losses = [agent.update(state, [batch], {})["imitation_loss"] for batch in batches]
    for position, one in enumerate(plains):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3, weight_decay=1e-4)
        warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda steps: min((steps + 1) / 3, 1))
        for batch, found in zip(batches, losses, strict=True):
            part = of_seed(batch, position)
            assert part.mask is not None
            predicted, target = one(part)[part.mask[0]], part.action[0][part.mask[0]]
            loss = torch.mean((predicted - target) ** 2)
            assert found[position].item() == pytest.approx(loss.item(), rel=1e-4)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(one.parameters(), 0.25)
            optimizer.step()
            warmup.step()
        # Of outputs: no gradient but rounding moves the keys' biases, on which nothing depends.
        shown = of_seed(batches[0], position)
        expected = one(shown)
        torch.testing.assert_close(Plain(state, position)(shown), expected, rtol=0.0, atol=1e-4)
        assert (untrained[position](shown) - expected).abs().max() > 0.01


def test_padding_does_not_count() -> None:
    agent = DecisionTransformer(SMALL, continuous())
    state = random_state(agent, (0, 1))
    (batch,) = with_returns(random_windows(agent.spec, 1, 2))
    other = with_other_padding(batch)
    torch.testing.assert_close(agent.validation_loss(state, other), agent.validation_loss(state, batch))


def test_an_action_is_not_shown_to_who_predicts_it() -> None:
    agent = DecisionTransformer(SMALL, continuous())
    one = Plain(random_state(agent, (0,)), 0)
    (batch,) = with_returns(random_windows(agent.spec, 1, 1))
    other = dataclasses.replace(batch, action=batch.action.clone())
    other.action[:, :, 2] = 0.7
    moved = (one(other) - one(batch)).abs().amax(dim=-1) > 1e-5
    assert not moved[:, :3].any()
    assert moved[:, 3].all()


def test_acting_step_by_step_is_what_windows_are_taught_by() -> None:
    """With own actions in the context, and what is still to be earned: the target less the rewards so far."""
    agent = DecisionTransformer(SMALL, continuous())
    state = random_state(agent, (0, 1))
    (batch,) = random_windows(agent.spec, 1, 2, steps=7)
    shown, rewards = batch.observation, batch.reward
    assert isinstance(shown, Tensor)
    left, taken = 3.0 - rewards.cumsum(dim=-1) + rewards, []
    carry = agent.initial_carry(state, 5)
    with torch.no_grad():
        for time in range(7):
            action, carry = agent.act(state, shown[:, :, time], carry)
            taken.append(action)
            carry = agent.observe_reward(carry, rewards[:, :, time])
            begin = max(0, time - 3)
            steps = slice(begin, time + 1)
            window = dataclasses.replace(
                batch,
                observation=shown[:, :, steps],
                action=torch.stack([*taken[begin:time], torch.full_like(action, 9.0)], dim=2),
                return_to_go=left[:, :, steps],
                timestep=torch.arange(begin, time + 1).expand(2, 5, -1),
            )
            for seed in range(2):
                expected = Plain(state, seed)(of_seed(window, seed))[:, -1]
                torch.testing.assert_close(action[seed], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(carry["return_to_go"], 3.0 - rewards.sum(dim=-1))


@pytest.mark.parametrize("spec", [discrete(start=2), multi_discrete()], ids=["discrete", "multi-discrete"])
def test_discrete_actions_are_classified(spec: Any) -> None:
    agent = DecisionTransformer(dataclasses.replace(SMALL, dropout=0.2), spec)
    state = random_state(agent, (0,))
    batches = with_returns(random_windows(spec, 1, 1))
    with no_values_read():
        metrics = agent.update(state, batches, random_noise(agent, 1, 1, batch_size=5)[0])
    assert metrics["imitation_loss"].shape == (1,)


def test_it_gives_no_density_since_its_context_holds_own_actions_where_a_log_has_others() -> None:
    assert not ALGORITHM.can(Density)


def test_what_was_left_open_follows_from_the_data() -> None:
    returns, lengths = np.array([-8.0, 3.0, 5.0]), np.array([4, 9, 2])
    found = ALGORITHM.completed(DTConfig(), returns, lengths)
    assert (found.target_return, found.return_scale, found.timesteps) == (5.0, 8.0, 9)
    asked = DTConfig(target_return=2.0, return_scale=3.0, timesteps=7)
    assert ALGORITHM.completed(asked, returns, lengths) == asked
    assert ALGORITHM.completed(DTConfig(), np.zeros(2), np.ones(2, np.int64)).return_scale == 1.0
    with pytest.raises(RecipeError, match="left open, and there is no data to say"):
        DecisionTransformer(DTConfig(), continuous())


def recipe_of(path: Path, **changes: Any) -> Recipe:
    """Episodes of nine steps, the n-th of which earns n in each: 0 to 63."""
    agent = {"context": 5, "width": 8, "layers": 1, "warmup_steps": 0}
    values: dict[str, Any] = {"algo": "dt", "agent": agent, "env": "none", "steps": 20}
    recipe = bc_recipe(make_demonstrations(path, length=9).path, **values)
    return recipe_from_dict(recipe.to_dict() | changes)


def test_a_trained_one_acts_for_another_return(tmp_path: Path) -> None:
    run = train(recipe_of(tmp_path / "data"), tmp_path / "run")
    asked = run.acting_by(target_return=20)
    assert load_policy(asked, "last")[0].initial_carry(1)["return_to_go"].tolist() == [[20.0], [20.0]]
    assert Run.open(run.path).recipe.agent.target_return == 63.0
    with pytest.raises(RecipeError, match=r"can't act by another agent\.width") as caught:
        run.acting_by(width=16)
    assert caught.value.hint == "change target_return"
    with pytest.raises(RecipeError, match="target_return"):
        run.acting_by(target_return="all")


class Listening(SilentListener):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warned(self, text: str) -> None:
        self.texts.append(text)


def test_a_run_s_recipe_says_what_is_asked_for(tmp_path: Path) -> None:
    run = train(recipe_of(tmp_path / "data", data={"reward_scale": 0.5}), tmp_path / "run")
    options = run.recipe.agent
    assert (options.target_return, options.return_scale, options.timesteps) == (31.5, 31.5, 9)


@pytest.mark.parametrize(("asked", "warned"), [(63.0, False), (64.0, True), (-1.0, True), (10.0, False)])
def test_a_return_that_the_data_never_shows_is_warned_of(tmp_path: Path, asked: float, warned: bool) -> None:
    recipe = recipe_of(tmp_path / "data")
    recipe = dataclasses.replace(recipe, agent=dataclasses.replace(recipe.agent, target_return=asked))
    listener = Listening()
    train(recipe, tmp_path / "run", listener)
    text = (
        f"agent.target_return={asked:g} is out of the range of the data's returns, 0 to 63: what earns it was never "
        "shown."
    )
    assert listener.texts == ([text] if warned else [])
    assert len(open_problem(recipe).doubts) == warned


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_an_exported_file_takes_in_rewards(tmp_path: Path, format: str) -> None:
    """The comparison that exporting makes has rewards in it."""
    run = train(recipe_of(tmp_path / "data"), tmp_path / "run")
    exported = export_policy(run, tmp_path / "policy", format, seed=1, checkpoint="last")
    assert exported.difference is not None
    assert exported.difference < 1e-4
    inputs = {each["name"]: each for each in exported.metadata["inputs"]}
    assert list(inputs)[:2] == ["observation", "reward"]
    assert inputs["carry.return_to_go"]["initial"] == 63.0
    assert inputs["reward"]["initial"] == 0.0
