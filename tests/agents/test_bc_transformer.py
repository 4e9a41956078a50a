"""BC-Transformer: its windows, its memory, and one update against torch's own layers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from offrl.agents.bc_transformer import BCTransformer, BCTransformerConfig
from offrl.errors import RecipeError
from tests.agents.batches import CPU, continuous, discrete, no_values_read, of_seed, random_noise
from tests.agents.windows import random_windows, with_other_padding
from tests.nn.test_transformer import plain

SMALL = BCTransformerConfig(
    policy="deterministic", width=8, layers=2, heads=2, context=4, dropout=0.0, learning_rate=1e-3
)


class Plain(nn.Module):
    """A hand-written one with the weights of one seed."""

    def __init__(self, agent: BCTransformer, state: object, seed: int) -> None:
        super().__init__()
        network = state.network  # type: ignore[attr-defined]
        self.blocks = plain(network.transformer, seed, "gelu")
        self.observation, self.head = nn.Linear(3, 8), nn.Linear(8, agent.head.outputs)
        self.place, self.norm = nn.Embedding(4, 8), nn.LayerNorm(8)
        with torch.no_grad():
            for theirs, ours in ((self.observation, network.observation), (self.head, network.head)):
                theirs.weight.copy_(ours.weight[seed, 0])
                theirs.bias.copy_(ours.bias[seed, 0, 0])
            self.place.weight.copy_(network.place.weight[seed])
            self.norm.weight.copy_(network.norm.gain[seed, 0, 0])
            self.norm.bias.copy_(network.norm.offset[seed, 0, 0])

    def forward(self, observation: Tensor) -> Tensor:
        tokens = self.norm(self.observation(observation) + self.place.weight)
        later = nn.Transformer.generate_square_subsequent_mask(4)
        output: Tensor = self.head(self.blocks(tokens, mask=later))
        return output


def test_updates_equal_torch_s_layers() -> None:
    seeds = (3, 8)
    agent = BCTransformer(SMALL, continuous())
    state = agent.init(seeds, CPU)
    with torch.no_grad():
        # The first weights' gradients are so small that Adam's steps magnify their rounding.
        state.network.flat.add_(0.3 * torch.randn(state.network.flat.shape, generator=torch.Generator().manual_seed(1)))
    batches = random_windows(agent.spec, 4, len(seeds))
    plains = [Plain(agent, state, position) for position in range(len(seeds))]
    for batch in batches:
        agent.update(state, [batch], {})
    for position, one in enumerate(plains):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3, weight_decay=0.01)
        for batch in batches:
            part = of_seed(batch, position)
            assert isinstance(part.observation, Tensor)
            assert part.mask is not None
            error = one(part.observation[0]).tanh() - part.action[0]
            loss = (error**2).sum(dim=-1)[part.mask[0]].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        # Of outputs: no gradient but rounding moves the keys' biases, on which nothing depends.
        shown = of_seed(batches[0], position).observation
        assert isinstance(shown, Tensor)
        expected, trained = one(shown[0]), Plain(agent, state, position)
        torch.testing.assert_close(trained(shown[0]), expected, rtol=0.0, atol=1e-4)
        assert (Plain(agent, agent.init(seeds, CPU), position)(shown[0]) - expected).abs().max() > 0.1


def test_padding_does_not_count() -> None:
    agent = BCTransformer(SMALL, continuous())
    state = agent.init([0, 1], CPU)
    (batch,) = random_windows(agent.spec, 1, 2)
    other = with_other_padding(batch)
    torch.testing.assert_close(agent.validation_loss(state, other), agent.validation_loss(state, batch))


@pytest.mark.parametrize("policy", ["deterministic", "mixture"])
def test_acting_step_by_step_is_what_windows_are_taught_by(policy: str) -> None:
    """And from then on it goes by the last window's length of observations."""
    agent = BCTransformer(dataclasses.replace(SMALL, policy=policy), continuous())  # type: ignore[arg-type]
    state = agent.init([0, 1], CPU)
    (batch,) = random_windows(agent.spec, 1, 2, steps=7)
    shown, there = batch.observation, torch.ones(2, 5, 4, dtype=torch.bool)
    assert isinstance(shown, Tensor)
    place = torch.arange(4).expand(2, 5, 4)
    with torch.no_grad():
        carry = agent.initial_carry(state, 5)
        for time in range(7):
            begin = max(0, time - 3)
            expected = agent.head.act(state.network(shown[:, :, begin : begin + 4], place, there, {}))
            action, carry = agent.act(state, shown[:, :, time], carry)
            torch.testing.assert_close(action, expected[:, :, time - begin])


def test_values_are_never_read() -> None:
    agent = BCTransformer(dataclasses.replace(SMALL, policy="auto", dropout=0.1), discrete())
    state = agent.init([0], CPU)
    batches = random_windows(agent.spec, 1, 1)
    with no_values_read():
        agent.update(state, batches, random_noise(agent, 1, 1, batch_size=5)[0])


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RecipeError, match="3 heads can't share"):
        BCTransformer(dataclasses.replace(SMALL, heads=3), continuous())
