"""BC-RNN against torch's own recurrent layers, its windows and its memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from offrl.agents.bc_rnn import BCRNN, BCRNNConfig
from offrl.errors import SpaceMismatchError
from offrl.nn.recurrent import Recurrent
from tests.agents.batches import CPU, continuous, discrete, no_values_read, of_seed, unbounded
from tests.agents.windows import random_windows, with_other_padding

SMALL = BCRNNConfig(policy="deterministic", width=6, layers=2, context=4, learning_rate=3e-3)
UPDATES = 6
VARIANTS = {
    "deterministic": SMALL,
    "GRU": dataclasses.replace(SMALL, cell="gru", layers=1),
    "mixture": dataclasses.replace(SMALL, policy="auto", components=3),
    "gaussian": dataclasses.replace(SMALL, policy="gaussian"),
}


class Plain(nn.Module):
    """Torch's recurrent layers and a linear one, with the weights of one seed."""

    def __init__(self, network: Recurrent, seed: int, inputs: int) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[network.cell]
        self.memory: Any = kind(inputs, network.width, len(network.layers), batch_first=True)
        outputs = network.head.weight.shape[2]
        self.head = nn.Linear(network.width, outputs)
        with torch.no_grad():
            for name, own in self.memory.named_parameters():
                part, _, depth = name.rpartition("_l")
                own.copy_(network.get_parameter(f"layers.{depth}.{part}")[seed].view(own.shape))
            self.head.weight.copy_(network.head.weight[seed, 0])
            self.head.bias.copy_(network.head.bias[seed, 0, 0])

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.memory(x)[0])
        return output


def plain_loss(config: BCRNNConfig, output: Tensor, action: Tensor) -> Tensor:
    """Of outputs [N, …] and actions [N, A], as torch's distributions have it."""
    if config.policy == "deterministic":
        return ((output.tanh() - action) ** 2).sum(dim=1)
    if config.policy == "gaussian":
        mean, log_std = output.chunk(2, dim=1)
        return -Independent(Normal(mean, log_std.exp()), 1).log_prob(action)
    logits, mean, raw = output.split([3, 6, 6], dim=1)
    std = nn.functional.softplus(raw.view(-1, 3, 2)) + 1e-4
    parts = Independent(Normal(mean.view(-1, 3, 2).tanh(), std), 1)
    return -MixtureSameFamily(Categorical(logits=logits), parts).log_prob(action)


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_torch_s_layers(name: str) -> None:
    config, seeds = VARIANTS[name], (3, 8)
    agent = BCRNN(config, continuous())
    state = agent.init(seeds, CPU)
    batches = random_windows(agent.spec, UPDATES, len(seeds))
    plains = [Plain(state.policy, position, 3) for position in range(len(seeds))]
    for batch in batches:
        agent.update(state, [batch], {})
    for position, plain in enumerate(plains):
        optimizer = torch.optim.Adam(plain.parameters(), lr=config.learning_rate)
        for batch in batches:
            part = of_seed(batch, position)
            assert isinstance(part.observation, Tensor)
            assert part.mask is not None
            loss = plain_loss(config, plain(part.observation[0])[part.mask[0]], part.action[part.mask]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trained = Plain(state.policy, position, 3)
        for (what, ours), theirs in zip(trained.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-5, msg=f"{what} of seed {position}")


def test_padding_does_not_count() -> None:
    agent = BCRNN(SMALL, continuous())
    state = agent.init([0, 1], CPU)
    (batch,) = random_windows(agent.spec, 1, 2)
    torch.testing.assert_close(
        agent.validation_loss(state, with_other_padding(batch)), agent.validation_loss(state, batch)
    )


def test_the_loss_by_hand() -> None:
    """Weights of 0 act by 0: of the steps (0.3), (0.5), padding, the mean square is (0.09 + 0.25) / 2."""
    agent = BCRNN(dataclasses.replace(SMALL, context=3), continuous(1, 1))
    state = agent.init([0], CPU)
    with torch.no_grad():
        state.policy.flat.zero_()
    (batch,) = random_windows(agent.spec, 1, 1, windows=1, steps=3)
    batch = dataclasses.replace(
        batch, action=torch.tensor([[[[0.3], [0.5], [0.9]]]]), mask=torch.tensor([[[True, True, False]]])
    )
    assert agent.update(state, [batch], {})["imitation_loss"].item() == pytest.approx((0.09 + 0.25) / 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_acting_step_by_step_is_what_windows_are_taught_by(name: str) -> None:
    """And begins anew with every window's length of steps."""
    agent = BCRNN(VARIANTS[name], continuous())
    state = agent.init([0, 1], CPU)
    (batch,) = random_windows(agent.spec, 1, 2)
    shown = batch.observation
    assert isinstance(shown, Tensor)
    with torch.no_grad():
        output, _ = state.policy(shown, state.policy.initial(5))
        expected = agent.head.act(output)
        carry = agent.initial_carry(state, 5)
        for _ in range(2):
            for time in range(SMALL.context):
                action, carry = agent.act(state, shown[:, :, time], carry)
                torch.testing.assert_close(action, expected[:, :, time])


def test_the_likelihood_is_that_of_what_is_remembered() -> None:
    agent = BCRNN(dataclasses.replace(SMALL, policy="squashed_gaussian"), continuous())
    assert agent.has_density
    state = agent.init([0], CPU)
    (batch,) = random_windows(agent.spec, 1, 1)
    assert isinstance(batch.observation, Tensor)
    batch = dataclasses.replace(batch, mask=torch.ones_like(batch.mask))  # type: ignore[arg-type]
    carry, found = agent.initial_carry(state, 5), []
    with torch.no_grad():
        for time in range(SMALL.context):
            found.append(agent.log_prob(state, batch.observation[:, :, time], batch.action[:, :, time], carry))
            _, carry = agent.act(state, batch.observation[:, :, time], carry)
    torch.testing.assert_close(-torch.stack(found).mean(), agent.validation_loss(state, batch)[0])


def test_what_bounds_clip_has_no_density() -> None:
    mixture = VARIANTS["mixture"]
    assert not BCRNN(mixture, continuous()).has_density
    assert BCRNN(mixture, unbounded()).has_density
    assert BCRNN(BCRNNConfig(width=6), discrete()).has_density


def test_values_are_never_read() -> None:
    agent = BCRNN(VARIANTS["mixture"], continuous())
    state = agent.init([0], CPU)
    batches = random_windows(agent.spec, 1, 1)
    with no_values_read():
        agent.update(state, batches, {})


def test_policies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpaceMismatchError, match="a mixture policy can't act"):
        BCRNN(dataclasses.replace(SMALL, policy="mixture"), discrete())
