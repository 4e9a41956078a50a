"""CQL and Cal-QL against a plain single-seed implementation, hand-computed losses, and itself on the seed axis."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions.transforms import TanhTransform

from offrl.agents.cql import ALGORITHM, CALQL, CQL, CalQL, CQLConfig, CQLState
from offrl.errors import SpaceMismatchError
from offrl.testing import check_agent
from offrl.testing.random_data import RandomData
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

UPDATES = 8
SMALL = CQLConfig(
    hidden=(16, 12),
    actor_learning_rate=3e-3,
    critic_learning_rate=5e-3,
    temperature_learning_rate=2e-2,
    target_rate=0.05,
    samples=3,
    initial_temperature=0.5,
)
VARIANTS = {
    "CQL(H)": SMALL,
    "Lagrangian": dataclasses.replace(SMALL, threshold=2.0, conservative_weight=1.5),
    # Smooth, since Adam makes whole steps of gradients that are nothing but rounding, as of units that are all but off.
    "layer norm, rates that fall": dataclasses.replace(
        SMALL, activation="tanh", layer_norm=True, decay_steps=6, target_entropy=-1.0
    ),
}


class PlainCQL:
    """The paper's equations for one seed, each kind of action evaluated by itself."""

    def __init__(self, config: CQLConfig, state: CQLState, seed: int) -> None:
        self.config = c = config
        self.actor = copy_of_member(state.actor, seed, c.activation)
        self.critics = nn.ModuleList(copy_of_member(state.critic, seed, c.activation, member) for member in range(2))
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = state.temperature.log_alpha[seed, 0].detach().clone().requires_grad_()
        self.log_multiplier = torch.zeros((), requires_grad=True)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=c.actor_learning_rate)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=c.critic_learning_rate)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=c.temperature_learning_rate)
        self.multiplier_optimizer = torch.optim.Adam([self.log_multiplier], lr=c.critic_learning_rate)
        for optimizer in (self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer):
            fall_linearly(optimizer, c.decay_steps)

    def sample(self, s: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(s).chunk(2, dim=1)
        before = mean + log_std.exp() * draws
        action = before.tanh()
        jacobian = TanhTransform().log_abs_det_jacobian(before, action)
        return action, (Normal(mean, log_std.exp()).log_prob(before) - jacobian).sum(dim=1)

    def q(self, critic: nn.Module, s: Tensor, a: Tensor) -> Tensor:
        value: Tensor = critic(torch.cat([s, a], dim=1))[:, 0]
        return value

    def gap(self, critic: nn.Module, s: Tensor, a: Tensor, s2: Tensor, noise: Noise) -> Tensor:
        terms = []
        for k in range(self.config.samples):
            uniform = 2.0 * Normal(0.0, 1.0).cdf(noise["uniform"][0, :, k]) - 1.0
            terms.append(self.q(critic, s, uniform) - math.log(0.5 ** a.shape[1]))
            for state, draws in ((s, noise["here"]), (s2, noise["there"])):
                with torch.no_grad():
                    action, log_prob = self.sample(state, draws[0, :, k])
                terms.append(self.kept_down(self.q(critic, s, action)) - log_prob)
        return (torch.stack(terms).exp().sum(dim=0).log() - self.q(critic, s, a)).mean()

    def kept_down(self, q: Tensor) -> Tensor:
        return q

    def update(self, batch: Batch, noise: Noise) -> None:
        c, s, a, s2 = self.config, batch.observation[0], batch.action[0], batch.next_observation[0]
        with torch.no_grad():
            next_action, _ = self.sample(s2, noise["next_action"][0])
            value = torch.min(*(self.q(target, s2, next_action) for target in self.targets))
            y = batch.reward[0] + 0.9 * (1.0 - batch.terminated[0]) * value
        squares = sum(((self.q(critic, s, a) - y) ** 2).mean() for critic in self.critics)
        excess = sum(c.conservative_weight * self.gap(critic, s, a, s2, noise) for critic in self.critics)
        if c.threshold != "none":
            excess = excess - 2 * c.threshold
        critic_loss = squares + self.log_multiplier.exp().detach() * excess
        if c.threshold != "none":
            step(self.multiplier_optimizer, -self.log_multiplier.exp() * excess.detach() / 2)
        step(self.critic_optimizer, critic_loss)
        with torch.no_grad():
            for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.mul_(1.0 - c.target_rate).add_(c.target_rate * source)
        action, log_prob = self.sample(s, noise["action"][0])
        value = torch.min(*(self.q(critic, s, action) for critic in self.critics))
        step(self.actor_optimizer, (self.log_alpha.exp().detach() * log_prob - value).mean())
        target_entropy = -a.shape[1] if c.target_entropy == "auto" else c.target_entropy
        step(self.alpha_optimizer, -(self.log_alpha * (log_prob.detach() + target_entropy)).mean())


class PlainCalQL(PlainCQL):
    """What the policy's actions are worth counts as no less than what was earned."""

    def update(self, batch: Batch, noise: Noise) -> None:
        assert batch.return_to_go is not None
        self.earned = batch.return_to_go[0]
        super().update(batch, noise)

    def kept_down(self, q: Tensor) -> Tensor:
        return torch.where(q < self.earned, self.earned, q)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str) -> None:
    agent = CQL(VARIANTS[name], continuous())
    assert_equal_updates(agent, PlainCQL, random_batches(agent.spec, UPDATES, 2))


@pytest.mark.parametrize("name", VARIANTS)
def test_calibrated_updates_equal_a_plain_implementation(name: str) -> None:
    agent = CalQL(VARIANTS[name], continuous())
    assert_equal_updates(agent, PlainCalQL, with_returns(agent, UPDATES, 2))


def with_returns(agent: CQL, count: int, seeds: int, batch_size: int = 8) -> list[Batch]:
    """Batches that tell what was earned, but for episodes that are running."""
    data = RandomData(agent.spec, 3)
    return [data.transitions(seeds, batch_size, 0.9, columns=CALQL.columns, running=True) for _ in range(count)]


def assert_equal_updates(agent: CQL, plain_kind: type[PlainCQL], batches: list[Batch]) -> None:
    seeds, config = (3, 8), agent.config
    state = agent.init(seeds, CPU)
    noises = random_noise(agent, UPDATES, len(seeds))
    plains = [plain_kind(config, state, position) for position in range(len(seeds))]
    for batch, noise in zip(batches, noises, strict=True):
        agent.update(state, [batch], noise)
    for position, plain in enumerate(plains):
        for batch, noise in zip(batches, noises, strict=True):
            plain.update(of_seed(batch, position), noise_of_seed(noise, position))
        assert_member_equals(state.actor, position, plain.actor)
        for own, theirs in ((state.temperature, plain.log_alpha), (state.multiplier, plain.log_multiplier)):
            torch.testing.assert_close(own.log_alpha[position, 0], theirs, rtol=0.0, atol=1e-5)
        for member in range(2):
            assert_member_equals(state.critic, position, plain.critics[member], member)
            assert_member_equals(state.target_critic, position, plain.targets[member], member)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_keeps_the_contract(name: str) -> None:
    check_agent(ALGORITHM, continuous(), dataclasses.asdict(VARIANTS[name]) | {"hidden": [8, 6]})


@pytest.mark.parametrize("name", VARIANTS)
def test_calibrated_it_keeps_the_contract(name: str) -> None:
    check_agent(CALQL, continuous(), dataclasses.asdict(VARIANTS[name]) | {"hidden": [8, 6]})


@pytest.mark.parametrize(
    ("kind", "earned", "first", "second"),
    [
        (CQL, None, (0.9, 0.1), (-0.3, 1.3)),
        # Of the policy's actions, which come behind the uniform one, values below what was earned count as that.
        (CalQL, 0.6, (0.9, 0.6), (0.6, 1.3)),
        (CalQL, -torch.inf, (0.9, 0.1), (-0.3, 1.3)),
    ],
)
def test_the_critics_loss_by_hand(
    kind: type[CQL], earned: float | None, first: tuple[float, float], second: tuple[float, float]
) -> None:
    """Q_i = 0.5 + w_i a with w = (1, −2), and one transition with a = 0.2 and y = 1.

    Three proposals 0, 0.4 and −0.4 have densities 1/2, 1 and 2; α = 3, m = 2, τ = 0.7.
    """
    agent = kind(CQLConfig(hidden=(), samples=1, conservative_weight=3.0, threshold=0.7), continuous(1, 1))
    state = agent.init([0], CPU)
    (layer,) = state.critic.layers
    with torch.no_grad():
        layer.weight[0, :, 0] = torch.tensor([[0.0, 1.0], [0.0, -2.0]])
        layer.bias[0, :, 0, 0] = 0.5
        state.multiplier.log_alpha.fill_(math.log(2.0))
    batch = Batch(
        observation=torch.tensor([[[9.0]]]),
        action=torch.tensor([[[0.2]]]),
        reward=torch.zeros(1, 1),
        discount=torch.zeros(1, 1),
        next_observation=torch.tensor([[[9.0]]]),
        terminated=torch.zeros(1, 1),
        return_to_go=None if earned is None else torch.tensor([[earned]]),
    )
    tried, density = torch.tensor([[[[0.0], [0.4], [-0.4]]]]), torch.tensor([[[0.5, 1.0, 2.0]]])
    loss, gap, q = agent.critic_loss(state, batch, torch.ones(1, 1), tried, density.log())
    assert q.flatten().tolist() == pytest.approx([0.7, 0.1])
    gaps = [
        math.log(2 * math.exp(0.5) + math.exp(here) + math.exp(there) / 2) - logged
        for (here, there), logged in ((first, 0.7), (second, 0.1))
    ]
    assert gap.flatten().tolist() == pytest.approx(gaps, rel=1e-5)
    expected = 0.3**2 + 0.9**2 + 2.0 * (3.0 * sum(gaps) - 1.4)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert agent.multiplier_loss(state, gap).item() == pytest.approx(-(3.0 * sum(gaps) - 1.4), rel=1e-5)


def test_values_come_down_to_what_was_earned_and_no_further() -> None:
    """Where returns are high the policy's values aren't pushed below them, as CQL's are."""
    found = {}
    for kind in (CQL, CalQL):
        agent = kind(dataclasses.replace(SMALL, samples=8, critic_learning_rate=2e-2), continuous())
        state, (batch,) = agent.init([0], CPU), random_batches(agent.spec, 1, 1, batch_size=64)
        # Nothing is bootstrapped: the return is the reward.
        settled = dataclasses.replace(
            batch, reward=torch.full((1, 64), 3.0), discount=torch.zeros(1, 64), return_to_go=torch.full((1, 64), 3.0)
        )
        for noise in random_noise(agent, 150, 1, batch_size=64):
            agent.update_critic(state, [settled], noise)
        actions, _ = agent.proposals(state, settled, noise)
        sampled = actions[:, :, 8]
        found[kind] = state.critic(torch.cat([settled.observation, sampled], dim=-1)).mean().item()
    assert found[CalQL] > 2.8
    assert found[CQL] < 2.0


def test_proposals_have_the_densities_that_they_were_drawn_from() -> None:
    agent = CQL(SMALL, continuous())
    state, (batch,) = agent.init([0], CPU), random_batches(agent.spec, 1, 1)
    actions, log_densities = agent.proposals(state, batch, random_noise(agent, 1, 1)[0])
    assert actions.shape == (1, 8, 9, 2)
    assert actions[:, :, :3].abs().max() <= 1.0
    torch.testing.assert_close(log_densities[:, :, :3], torch.full((1, 8, 3), math.log(0.25)))
    for first, observation in ((3, batch.observation), (6, batch.next_observation)):
        for k in range(3):
            expected = agent.log_prob(state, observation, actions[:, :, first + k], ())
            torch.testing.assert_close(log_densities[:, :, first + k], expected, rtol=1e-4, atol=1e-4)


def test_the_integral_of_a_known_critic_is_found() -> None:
    """Q(s, a) = a on [−1, 1]: log ∫ e^a da = log(e − 1/e); three proposals of K draws weigh as 3 K samples."""
    agent = CQL(CQLConfig(hidden=(), samples=4_000), continuous(1, 1))
    state = agent.init([0], CPU)
    (layer,) = state.critic.layers
    with torch.no_grad():
        state.actor.flat.zero_()
        layer.weight[0, :, 0] = torch.tensor([0.0, 1.0])
        layer.bias.zero_()
    (batch,) = random_batches(agent.spec, 1, 1, batch_size=2)
    actions, log_densities = agent.proposals(state, batch, random_noise(agent, 1, 1, batch_size=2)[0])
    _, gap, q = agent.critic_loss(state, batch, torch.zeros(1, 2), actions, log_densities)
    found = gap + q.mean(dim=2) - math.log(12_000)
    assert found.flatten().tolist() == pytest.approx([math.log(math.e - 1 / math.e)] * 2, abs=0.03)


def test_values_of_actions_that_were_not_logged_fall_below_those_of_the_data() -> None:
    margins = {}
    for weight in (0.0, 5.0):
        agent = CQL(dataclasses.replace(SMALL, conservative_weight=weight), continuous())
        state, (batch,) = agent.init([0], CPU), random_batches(agent.spec, 1, 1, batch_size=64)
        for noise in random_noise(agent, 150, 1, batch_size=64):
            agent.update_critic(state, [batch], noise)
        logged, opposite = (
            state.critic(torch.cat([batch.observation, sign * batch.action], dim=-1)).mean().item() for sign in (1, -1)
        )
        margins[weight] = logged - opposite
    assert margins[5.0] > margins[0.0] + 0.5


def test_the_critics_alone_learn() -> None:
    agent = CQL(SMALL, continuous())
    state = agent.init([0, 1], CPU)
    actor, critic = state.actor.flat.clone(), state.critic.flat.clone()
    agent.update_critic(state, random_batches(agent.spec, 1, 2), random_noise(agent, 1, 2)[0])
    assert torch.equal(state.actor.flat, actor)
    assert not torch.equal(state.critic.flat, critic)


def test_values_are_never_read() -> None:
    agent = CQL(VARIANTS["Lagrangian"], continuous())
    state, batches = agent.init([0], CPU), random_batches(agent.spec, 1, 1)
    with no_values_read():
        agent.update(state, batches, random_noise(agent, 1, 1)[0])
        act(agent, state, batches[0].observation, torch.zeros(1, 8, 2))


def test_spaces_that_it_cannot_act_in_are_refused() -> None:
    for spec in (discrete(), unbounded()):
        with pytest.raises(SpaceMismatchError):
            CQL(SMALL, spec)
