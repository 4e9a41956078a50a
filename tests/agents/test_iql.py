"""IQL against a plain single-seed implementation, hand-computed losses, and itself on the seed axis."""

from __future__ import annotations

import copy
import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from offrl.agents.iql import ALGORITHM, IQL, IQLConfig, IQLState, expectile_loss, gumbel_loss
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.nn import MLP, seed_generators
from offrl.nn.policy_heads import GaussianActor
from offrl.testing import check_agent
from offrl.types import Batch, Spec
from tests.agents.batches import (
    CPU,
    act,
    continuous,
    discrete,
    multi_discrete,
    no_values_read,
    of_seed,
    random_batches,
    unbounded,
)
from tests.nn.plain import assert_member_equals, copy_of_member, follow

UPDATES = 10
SMALL = IQLConfig(hidden=(16, 12), actor_learning_rate=3e-3, critic_learning_rate=5e-3, target_rate=0.05)
VARIANTS = {
    "paper": SMALL,
    "AntMaze": dataclasses.replace(SMALL, expectile=0.9, temperature=10.0),
    "XQL": dataclasses.replace(SMALL, value_loss="gumbel", gumbel_scale=0.8),
    "squashed": dataclasses.replace(SMALL, policy="squashed_gaussian", initial_log_std=-1.0),
    "a rate that falls by a cosine, as in the paper": dataclasses.replace(SMALL, decay_steps=8, decay_shape="cosine"),
    "layer norm, a rate that falls": dataclasses.replace(SMALL, layer_norm=True, decay_steps=8, largest_weight=2.0),
    "categorical": SMALL,
    "categorical XQL": dataclasses.replace(SMALL, policy="categorical", value_loss="gumbel"),
    "several choices": dataclasses.replace(SMALL, expectile=0.9),
}
FIRST = 2
SPECS = {
    "categorical": discrete(actions=4, start=FIRST),
    "categorical XQL": discrete(actions=4, start=FIRST),
    "several choices": multi_discrete(choices=(3, 2)),
}
"""Of the variants that don't act by vectors."""


def spec_of(name: str) -> Spec:
    return SPECS.get(name, continuous())


def batches_of(spec: Spec, count: int, seeds: int) -> list[Batch]:
    """Where actions are discrete, with masks that may forbid what was done."""
    batches = random_batches(spec, count, seeds)
    if spec.is_continuous:
        return batches
    masks = torch.rand(count, seeds, 8, spec.action_dim, generator=torch.Generator().manual_seed(3)) < 0.6
    return [dataclasses.replace(batch, action_mask=mask) for batch, mask in zip(batches, masks, strict=True)]


class PlainIQL:
    """The algorithm as the paper's equations and the authors' order of steps have it, for one seed."""

    def __init__(self, config: IQLConfig, state: IQLState, seed: int) -> None:
        self.config = c = config
        self.mean = copy_of_member(state.actor.network, seed, c.activation)
        self.spreads = []
        if isinstance(state.actor, GaussianActor):
            self.spreads = [nn.Parameter(state.actor.log_std[seed, 0].detach().clone())]
        self.critics = nn.ModuleList(copy_of_member(state.critic, seed, c.activation, member) for member in range(2))
        self.targets = copy.deepcopy(self.critics)
        self.value = copy_of_member(state.value, seed, c.activation)
        self.actor_optimizer = torch.optim.Adam([*self.mean.parameters(), *self.spreads], lr=c.actor_learning_rate)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=c.critic_learning_rate)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=c.critic_learning_rate)
        follow(self.actor_optimizer, c)

    def update(self, batch: Batch) -> None:
        c, s, a = self.config, batch.observation[0], batch.action[0]
        pairs = torch.cat([s, self.vectors(a)], dim=1)
        with torch.no_grad():
            q = torch.min(*(target(pairs)[:, 0] for target in self.targets))
        error = q - self.value(s)[:, 0]
        if c.value_loss == "gumbel":
            z = torch.clip(error / c.gumbel_scale, max=7.0)
            scale = torch.exp(torch.clip(z.max(), min=-1.0)).detach()
            step(self.value_optimizer, ((torch.exp(z) - z - 1.0) / scale).mean())
        else:
            weight = torch.abs(c.expectile - (error < 0.0).float())
            step(self.value_optimizer, (weight * error**2).mean())
        with torch.no_grad():
            advantage = torch.clip(torch.exp(c.temperature * (q - self.value(s)[:, 0])), max=c.largest_weight)
        step(self.actor_optimizer, -(advantage * self.log_prob(s, a, batch.action_mask)).mean())
        with torch.no_grad():
            y = batch.reward[0] + 0.9 * (1.0 - batch.terminated[0]) * self.value(batch.next_observation[0])[:, 0]
        step(self.critic_optimizer, sum(((critic(pairs)[:, 0] - y) ** 2).mean() for critic in self.critics))
        with torch.no_grad():
            for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.mul_(1.0 - c.target_rate).add_(c.target_rate * source)

    def vectors(self, a: Tensor) -> Tensor:
        """A Discrete space's actions begin at 2, those of its MultiDiscrete spaces at 0, of three and two."""
        if a.dim() == 1:
            return functional.one_hot(a - FIRST, 4).float()
        if a.dtype == torch.int64:
            return torch.cat([functional.one_hot(a[:, 0], 3), functional.one_hot(a[:, 1], 2)], dim=1).float()
        return a

    def log_prob(self, s: Tensor, a: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            taken = self.vectors(a).bool()
            logits = torch.where(mask[0] | taken, self.mean(s), -1e9)
            parts = [logits] if a.dim() == 1 else [logits[:, :3], logits[:, 3:]]
            return (torch.cat([part.log_softmax(dim=1) for part in parts], dim=1) * taken).sum(dim=1)
        (log_std,) = self.spreads
        if self.config.policy == "auto":
            return torch.distributions.Normal(self.mean(s).tanh(), log_std.exp()).log_prob(a).sum(dim=-1)
        base = torch.distributions.Normal(self.mean(s), log_std.exp())
        squashed = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform()])
        return squashed.log_prob(a).sum(dim=-1)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str) -> None:
    seeds, config = (3, 8), VARIANTS[name]
    agent = IQL(config, spec_of(name))
    state = agent.init(seeds, CPU)
    batches = batches_of(agent.spec, UPDATES, len(seeds))
    plains = [PlainIQL(config, state, position) for position in range(len(seeds))]
    for batch in batches:
        agent.update(state, [batch], {})
    for position, plain in enumerate(plains):
        for batch in batches:
            plain.update(of_seed(batch, position))
        assert_member_equals(state.actor.network, position, plain.mean)
        assert_member_equals(state.value, position, plain.value)
        for log_std in plain.spreads:
            assert isinstance(state.actor, GaussianActor)
            torch.testing.assert_close(state.actor.log_std[position, 0], log_std, rtol=0.0, atol=1e-5)
        for member in range(2):
            assert_member_equals(state.critic, position, plain.critics[member], member)
            assert_member_equals(state.target_critic, position, plain.targets[member], member)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_keeps_the_contract(name: str) -> None:
    options = dataclasses.asdict(VARIANTS[name]) | {"hidden": [8, 6]}
    check_agent(ALGORITHM, spec_of(name), options)


def test_the_expectile_loss_by_hand() -> None:
    errors = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    assert expectile_loss(errors, 0.7).tolist() == pytest.approx([0.3 * 4.0, 0.0, 0.7 * 0.25, 0.7 * 9.0])


def test_its_minimum_is_the_expectile() -> None:
    """Of 0 and 1, equally often, the τ-expectile is τ: there (1 − τ) v = τ (1 − v)."""
    data, constants = torch.tensor([0.0, 1.0]), torch.linspace(0.0, 1.0, 1001)
    losses = expectile_loss(data - constants.unsqueeze(1), 0.9).mean(dim=1)
    assert constants[losses.argmin()].item() == pytest.approx(0.9, abs=2e-3)


def test_the_gumbel_loss_by_hand() -> None:
    """The largest error of the first row is 1, of the second −2, where −1 stands for it; 9 counts as 7."""
    errors = torch.tensor([[1.0, 0.0], [-2.0, -3.0], [9.0, 7.0]])
    expected = [
        [(math.e - 2.0) / math.e, 0.0],
        [(math.exp(-2.0) + 1.0) * math.e, (math.exp(-3.0) + 2.0) * math.e],
        [1.0 - 8.0 * math.exp(-7.0)] * 2,
    ]
    torch.testing.assert_close(gumbel_loss(errors), torch.tensor(expected))


def test_its_minimum_is_the_soft_maximum() -> None:
    """Of 0 and 1, equally often, β log((1 + e^(1/β)) / 2): for β = 0.5 about 0.717."""
    data, constants = torch.tensor([0.0, 1.0]), torch.linspace(0.0, 1.0, 1001)
    z = (data - constants.unsqueeze(1)) / 0.5
    # Losses of one batch have one factor: they are compared without it.
    losses = gumbel_loss(z) * z.amax(dim=1, keepdim=True).clamp(min=-1.0).exp()
    assert constants[losses.mean(dim=1).argmin()].item() == pytest.approx(0.5 * math.log((1 + math.e**2) / 2), abs=2e-3)


def linear(network: MLP, *members: tuple[list[float], float]) -> None:
    """Set one seed's linear networks: for each member its weights and bias."""
    (layer,) = network.layers
    with torch.no_grad():
        for member, (weight, bias) in enumerate(members):
            layer.weight[0, member, 0] = torch.tensor(weight)
            layer.bias[0, member] = bias


def test_losses_by_hand() -> None:
    """One transition from s = 0.5 by a = 0.2 with reward 1 to s' = −1, γ = 0.9; all networks are linear."""
    agent = IQL(IQLConfig(hidden=(), expectile=0.8, temperature=2.0), continuous(1, 1))
    state = agent.init([0], CPU)
    linear(state.value, ([2.0], 0.1))
    linear(state.critic, ([1.0, 1.0], 0.0), ([0.0, 5.0], -0.5))
    linear(state.target_critic, ([1.0, 4.0], 0.2), ([3.0, 0.0], 1.0))
    linear(state.actor.network, ([0.4], 0.1))
    batch = Batch(
        observation=torch.tensor([[[0.5]]]),
        action=torch.tensor([[[0.2]]]),
        reward=torch.tensor([[1.0]]),
        discount=torch.tensor([[0.9]]),
        next_observation=torch.tensor([[[-1.0]]]),
        terminated=torch.zeros(1, 1),
    )
    # The targets give 0.5 + 0.8 + 0.2 = 1.5 and 1.5 + 1 = 2.5; V(s) = 1.1.
    q = torch.tensor([[1.5]])
    loss, value = agent.value_loss(state, batch, q)
    assert value.item() == pytest.approx(1.1)
    assert loss.item() == pytest.approx(0.8 * 0.4**2)
    # exp(2 · 0.4) times the negative log-density of 0.2 under N(tanh 0.3, 1).
    squares = 0.5 * (0.2 - math.tanh(0.3)) ** 2
    expected = math.exp(0.8) * (squares + 0.5 * math.log(2.0 * math.pi))
    assert agent.actor_loss(state, batch, q).item() == pytest.approx(expected, rel=1e-5)
    # V(s') = −1.9, so y = 1 − 1.71 = −0.71; the critics say 0.7 and 0.5.
    loss, q_values = agent.critic_loss(state, batch)
    assert q_values.flatten().tolist() == pytest.approx([0.7, 0.5])
    assert loss.item() == pytest.approx(1.41**2 + 1.21**2, rel=1e-5)


def test_weights_are_clipped() -> None:
    agent = IQL(dataclasses.replace(SMALL, temperature=50.0, largest_weight=3.0), continuous())
    state = agent.init([0], CPU)
    (batch,) = random_batches(agent.spec, 1, 1)
    far = torch.full((1, 8), 1e3)
    log_prob = agent.log_prob(state, batch.observation, batch.action, ())
    torch.testing.assert_close(agent.actor_loss(state, batch, far), -3.0 * log_prob.mean(dim=1))


def test_the_critics_alone_learn() -> None:
    agent = IQL(SMALL, continuous())
    state = agent.init([0, 1], CPU)
    actor, critic = state.actor.flat.clone(), state.critic.flat.clone()
    agent.update_critic(state, random_batches(agent.spec, 1, 2), {})
    assert torch.equal(state.actor.flat, actor)
    assert not torch.equal(state.critic.flat, critic)


def test_greedy_actions_are_the_mean_and_samples_spread_around_it() -> None:
    agent = IQL(dataclasses.replace(SMALL, initial_log_std=-1.0), continuous())
    state = agent.init([0], CPU)
    observation = torch.randn(1, 4, 3)
    mean = state.actor.network(observation).tanh()
    with torch.no_grad():
        assert torch.equal(act(agent, state, observation), mean)
        draws = torch.randn(1, 4, 2)
        torch.testing.assert_close(act(agent, state, observation, draws), mean + math.exp(-1.0) * draws)


def test_values_are_never_read() -> None:
    agent = IQL(SMALL, continuous())
    state = agent.init([0], CPU)
    batches = random_batches(agent.spec, 1, 1)
    with no_values_read():
        agent.update(state, batches, {})
        act(agent, state, batches[0].observation, torch.zeros(1, 8, 2))


def test_the_weight_of_a_discrete_action_is_on_its_likelihood_among_allowed_ones() -> None:
    """Even logits; one action of four is allowed, and another one was taken: −log 1/2, exp(2 · 0.4) times."""
    agent = IQL(IQLConfig(hidden=(), temperature=2.0), discrete(1, 4))
    state = agent.init([0], CPU)
    state.actor.flat.zero_()
    linear(state.value, ([0.0], 1.1))
    batch = dataclasses.replace(
        random_batches(agent.spec, 1, 1, 1)[0],
        action=torch.tensor([[3]]),
        action_mask=torch.tensor([[[True, False, False, False]]]),
    )
    loss = agent.actor_loss(state, batch, torch.tensor([[1.5]]))
    assert loss.item() == pytest.approx(math.exp(0.8) * math.log(2.0), rel=1e-5)


def test_critics_see_the_one_hot_code_of_what_was_done() -> None:
    """Q₁ = s + (1, 2, 3)·a and Q₂ = −(4, 5, 6)·a at s = 0.5 and the third action, with r = 1, at the end: y = 1."""
    agent = IQL(IQLConfig(hidden=()), discrete(1, 3, start=7))
    state = agent.init([0], CPU)
    linear(state.critic, ([1.0, 1.0, 2.0, 3.0], 0.0), ([0.0, -4.0, -5.0, -6.0], 0.0))
    batch = dataclasses.replace(
        random_batches(agent.spec, 1, 1, 1)[0],
        observation=torch.tensor([[[0.5]]]),
        action=torch.tensor([[9]]),
        reward=torch.tensor([[1.0]]),
        discount=torch.zeros(1, 1),
    )
    loss, q = agent.critic_loss(state, batch)
    assert q.flatten().tolist() == [3.5, -6.0]
    assert loss.item() == pytest.approx(2.5**2 + 7.0**2)


def test_a_categorical_policy_starts_from_a_clone_of_its_kind() -> None:
    agent = IQL(SMALL, discrete())
    state, policy = agent.init([0], CPU), MLP(3, 4, (16, 12), seed_generators([5]))
    agent.adopt_policy(state, policy, "categorical")
    observation = torch.randn(1, 20, 3)
    assert torch.equal(act(agent, state, observation), policy(observation).argmax(dim=-1))
    with pytest.raises(RecipeError, match="categorical"):
        agent.adopt_policy(state, policy, "deterministic")


def test_spaces_that_it_cannot_act_in_are_refused() -> None:
    with pytest.raises(SpaceMismatchError, match="finite action bounds"):
        IQL(SMALL, unbounded())
    for policy, spec in (("categorical", continuous()), ("gaussian", discrete()), ("deterministic", continuous())):
        with pytest.raises(SpaceMismatchError, match=f"a {policy} policy") as refused:
            IQL(dataclasses.replace(SMALL, policy=policy), spec)  # type: ignore[arg-type]
        assert "agent.policy" in refused.value.hint


def test_a_clone_of_another_kind_is_refused() -> None:
    agent = IQL(SMALL, continuous())
    state = agent.init([0], CPU)
    with pytest.raises(RecipeError, match="IQL"):
        agent.adopt_policy(state, copy.deepcopy(state.actor.network), "categorical")


def test_actions_are_taken_within_the_bounds_of_a_box() -> None:
    spec = dataclasses.replace(continuous(), action_space=gym.spaces.Box(-2.0, 2.0, (2,), np.float32))
    assert IQL(SMALL, spec).acting_noise_shape == (2,)


def test_samples_are_clipped_to_the_bounds() -> None:
    """By a spread of e: critics that learn online hear of what was executed."""
    agent = IQL(dataclasses.replace(SMALL, initial_log_std=1.0), continuous())
    noise = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0))
    state, observation = agent.init((0, 1), CPU), torch.randn(2, 50, 3)
    drawn = act(agent, state, observation, noise)
    mean = act(agent, state, observation)
    torch.testing.assert_close(drawn, (mean + math.e * noise).clamp(-1.0, 1.0))
