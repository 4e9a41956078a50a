"""AWAC against a plain single-seed implementation, hand-computed losses, and itself on the seed axis."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from offrl.agents.awac import ALGORITHM, AWAC, AWACConfig, AWACState
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.testing import check_agent
from offrl.types import Batch, Noise
from tests.agents.batches import (
    CPU,
    act,
    continuous,
    discrete,
    no_values_read,
    noise_of_seed,
    of_seed,
    random_batches,
    random_noise,
    unbounded,
)
from tests.nn.plain import assert_member_equals, copy_of_member, fall_linearly

UPDATES = 10
SMALL = AWACConfig(
    hidden=(16, 12), actor_learning_rate=3e-3, critic_learning_rate=5e-3, target_rate=0.05, weight_decay=0.0
)
VARIANTS = {
    "authors": dataclasses.replace(SMALL, weight_decay=0.1),
    "squashed": dataclasses.replace(SMALL, policy="squashed_gaussian", initial_log_std=-1.0, temperature=0.3),
    "layer norm, rates that fall": dataclasses.replace(SMALL, layer_norm=True, activation="tanh", decay_steps=8),
}


class PlainAWAC:
    """The paper's algorithm 1 for one seed."""

    def __init__(self, config: AWACConfig, state: AWACState, seed: int) -> None:
        self.config = c = config
        self.mean = copy_of_member(state.actor.network, seed, c.activation)
        self.log_std = nn.Parameter(state.actor.log_std[seed, 0].detach().clone())
        self.critics = nn.ModuleList(copy_of_member(state.critic, seed, c.activation, member) for member in range(2))
        self.targets = copy.deepcopy(self.critics)
        policy = [*self.mean.parameters(), self.log_std]
        self.actor_optimizer = torch.optim.AdamW(policy, lr=c.actor_learning_rate, weight_decay=c.weight_decay)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=c.critic_learning_rate)
        for optimizer in (self.actor_optimizer, self.critic_optimizer):
            fall_linearly(optimizer, c.decay_steps)

    def sample(self, s: Tensor, draws: Tensor) -> Tensor:
        if self.config.policy == "gaussian":
            return (self.mean(s).tanh() + self.log_std.exp() * draws).clamp(-1.0, 1.0)
        return torch.tanh(self.mean(s) + self.log_std.exp() * draws)

    def log_prob(self, s: Tensor, a: Tensor) -> Tensor:
        if self.config.policy == "gaussian":
            return torch.distributions.Normal(self.mean(s).tanh(), self.log_std.exp()).log_prob(a).sum(dim=-1)
        base = torch.distributions.Normal(self.mean(s), self.log_std.exp())
        squashed = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform()])
        return squashed.log_prob(a).sum(dim=-1)

    def lower(self, critics: nn.ModuleList, s: Tensor, a: Tensor) -> Tensor:
        return torch.min(*(critic(torch.cat([s, a], dim=1))[:, 0] for critic in critics))

    def update(self, batch: Batch, noise: Noise) -> None:
        c, s, a, s2 = self.config, batch.observation[0], batch.action[0], batch.next_observation[0]
        with torch.no_grad():
            value = self.lower(self.targets, s2, self.sample(s2, noise["next_action"][0]))
            y = batch.reward[0] + 0.9 * (1.0 - batch.terminated[0]) * value
        pairs = torch.cat([s, a], dim=1)
        step(self.critic_optimizer, sum(((critic(pairs)[:, 0] - y) ** 2).mean() for critic in self.critics))
        with torch.no_grad():
            for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.mul_(1.0 - c.target_rate).add_(c.target_rate * source)
            baseline = self.lower(self.critics, s, self.sample(s, noise["action"][0]))
            weight = torch.exp((self.lower(self.critics, s, a) - baseline) / c.temperature)
        step(self.actor_optimizer, -(weight / weight.mean() * self.log_prob(s, a)).mean())


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str) -> None:
    seeds, config = (3, 8), VARIANTS[name]
    agent = AWAC(config, continuous())
    state = agent.init(seeds, CPU)
    batches, noises = random_batches(agent.spec, UPDATES, len(seeds)), random_noise(agent, UPDATES, len(seeds))
    plains = [PlainAWAC(config, state, position) for position in range(len(seeds))]
    for batch, noise in zip(batches, noises, strict=True):
        agent.update(state, [batch], noise)
    for position, plain in enumerate(plains):
        for batch, noise in zip(batches, noises, strict=True):
            plain.update(of_seed(batch, position), noise_of_seed(noise, position))
        assert_member_equals(state.actor.network, position, plain.mean)
        torch.testing.assert_close(state.actor.log_std[position, 0], plain.log_std, rtol=0.0, atol=1e-5)
        for member in range(2):
            assert_member_equals(state.critic, position, plain.critics[member], member)
            assert_member_equals(state.target_critic, position, plain.targets[member], member)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_keeps_the_contract(name: str) -> None:
    check_agent(ALGORITHM, continuous(), dataclasses.asdict(VARIANTS[name]) | {"hidden": [8, 6]})


def test_the_actor_s_loss_by_hand() -> None:
    """Two transitions at s = 0 with a = 0.5 and −0.5; Q₁ = 2a, Q₂ = 3a, π = N(0, 1), λ = 0.5, drawn 0.2 and 0.3."""
    agent = AWAC(AWACConfig(hidden=(), temperature=0.5), continuous(1, 1))
    state = agent.init([0], CPU)
    (layer,) = state.critic.layers
    with torch.no_grad():
        state.actor.flat.zero_()
        layer.weight[0, :, 0] = torch.tensor([[0.0, 2.0], [0.0, 3.0]])
        layer.bias.zero_()
    batch = Batch(
        observation=torch.zeros(1, 2, 1),
        action=torch.tensor([[[0.5], [-0.5]]]),
        reward=torch.zeros(1, 2),
        discount=torch.zeros(1, 2),
        next_observation=torch.zeros(1, 2, 1),
        terminated=torch.zeros(1, 2),
    )
    loss, advantage = agent.actor_loss(state, batch, torch.tensor([[[0.2], [0.3]]]))
    # The lower critic has 2a of positive actions and 3a of negative ones.
    assert advantage.flatten().tolist() == pytest.approx([1.0 - 0.4, -1.5 - 0.6])
    assert loss.item() == pytest.approx(0.125 + 0.5 * math.log(2.0 * math.pi), rel=1e-5)
    with torch.no_grad():
        state.actor.network.layers[0].bias.fill_(math.atanh(0.1))
    weights = [math.exp((1.0 - 0.6) / 0.5), math.exp((-1.5 - 0.8) / 0.5)]
    squares = (weights[0] * 0.5 * 0.4**2 + weights[1] * 0.5 * 0.6**2) / sum(weights)
    loss, _ = agent.actor_loss(state, batch, torch.tensor([[[0.2], [0.3]]]))
    assert loss.item() == pytest.approx(squares + 0.5 * math.log(2.0 * math.pi), rel=1e-5)


def test_with_a_large_temperature_it_is_cloning() -> None:
    agent = AWAC(dataclasses.replace(SMALL, temperature=1e9), continuous())
    state, (batch,) = agent.init([0], CPU), random_batches(agent.spec, 1, 1)
    cloning = -state.actor.log_density(agent._policy(state, batch.observation), batch.action).mean(dim=1)
    torch.testing.assert_close(agent.actor_loss(state, batch, torch.zeros(1, 8, 2))[0], cloning)


def test_no_scale_of_the_rewards_overflows_the_weights() -> None:
    agent = AWAC(dataclasses.replace(SMALL, temperature=1e-4), continuous())
    state, (batch,) = agent.init([0], CPU), random_batches(agent.spec, 1, 1)
    assert agent.actor_loss(state, batch, torch.zeros(1, 8, 2))[0].isfinite().all()


def test_the_critics_alone_learn() -> None:
    agent = AWAC(SMALL, continuous())
    state = agent.init([0, 1], CPU)
    actor, critic = state.actor.flat.clone(), state.critic.flat.clone()
    agent.update_critic(state, random_batches(agent.spec, 1, 2), random_noise(agent, 1, 2)[0])
    assert torch.equal(state.actor.flat, actor)
    assert not torch.equal(state.critic.flat, critic)


def test_samples_are_clipped_and_have_no_density_then() -> None:
    agent = AWAC(SMALL, continuous())
    state = agent.init([0], CPU)
    actions = act(agent, state, torch.randn(1, 4, 3), torch.full((1, 4, 2), 9.0))
    assert torch.equal(actions, torch.ones(1, 4, 2))
    assert not agent.has_density
    assert AWAC(VARIANTS["squashed"], continuous()).has_density


def test_values_are_never_read() -> None:
    agent = AWAC(SMALL, continuous())
    state, batches = agent.init([0], CPU), random_batches(agent.spec, 1, 1)
    with no_values_read():
        agent.update(state, batches, random_noise(agent, 1, 1)[0])
        act(agent, state, batches[0].observation, torch.zeros(1, 8, 2))


def test_spaces_and_clones_that_it_cannot_take_are_refused() -> None:
    for spec in (discrete(), unbounded()):
        with pytest.raises(SpaceMismatchError):
            AWAC(SMALL, spec)
    agent = AWAC(SMALL, continuous())
    state = agent.init([0], CPU)
    with pytest.raises(RecipeError, match="AWAC"):
        agent.adopt_policy(state, copy.deepcopy(state.actor.network), "categorical")
