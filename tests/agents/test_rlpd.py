"""RLPD against a plain single-seed implementation, hand-computed losses, and itself on the seed axis."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions.transforms import TanhTransform

from offrl.agents.rlpd import ALGORITHM, RLPD, RLPDConfig, RLPDState, least_of_some
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

UPDATES = 5
SMALL = RLPDConfig(
    hidden=(16, 12),
    actor_learning_rate=3e-3,
    critic_learning_rate=5e-3,
    temperature_learning_rate=2e-2,
    target_rate=0.05,
    critics=4,
    policy_delay=3,
    initial_temperature=0.5,
)
VARIANTS = {
    "RLPD": SMALL,
    "AntMaze": dataclasses.replace(SMALL, target_critics=1, entropy_in_targets=False),
    "REDQ": dataclasses.replace(SMALL, layer_norm=False, critics=5, policy_delay=2),
    "all critics, rates that fall": dataclasses.replace(SMALL, target_critics=4, decay_steps=9, target_entropy=-1.0),
}


class PlainRLPD:
    """The paper's algorithm 1, for one seed; targets are made of critics that the draws put first."""

    def __init__(self, config: RLPDConfig, state: RLPDState, seed: int) -> None:
        self.config = c = config
        self.actor = copy_of_member(state.actor, seed, c.activation)
        self.critics = nn.ModuleList(
            copy_of_member(state.critic, seed, c.activation, member) for member in range(c.critics)
        )
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = state.temperature.log_alpha[seed, 0].detach().clone().requires_grad_()
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=c.actor_learning_rate)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=c.critic_learning_rate)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=c.temperature_learning_rate)
        fall_linearly(self.critic_optimizer, c.decay_steps)
        for optimizer in (self.actor_optimizer, self.alpha_optimizer):
            fall_linearly(optimizer, c.decay_steps // c.policy_delay)

    def sample(self, s: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(s).chunk(2, dim=1)
        before = mean + log_std.exp() * draws
        action = before.tanh()
        jacobian = TanhTransform().log_abs_det_jacobian(before, action)
        return action, (Normal(mean, log_std.exp()).log_prob(before) - jacobian).sum(dim=1)

    def update(self, batches: list[Batch], noise: Noise) -> None:
        c = self.config
        for step, batch in enumerate(batches):
            s, a, s2 = batch.observation[0], batch.action[0], batch.next_observation[0]
            order = sorted(range(c.critics), key=lambda member: float(noise["chosen"][0, step, member]))
            with torch.no_grad():
                next_action, log_prob = self.sample(s2, noise["next_action"][0, step])
                pairs = torch.cat([s2, next_action], dim=1)
                value = torch.stack([self.targets[member](pairs)[:, 0] for member in order[: c.target_critics]])
                y = value.amin(dim=0)
                if c.entropy_in_targets:
                    y = y - self.log_alpha.exp() * log_prob
                y = batch.reward[0] + 0.9 * (1.0 - batch.terminated[0]) * y
            pairs = torch.cat([s, a], dim=1)
            minimize(self.critic_optimizer, sum(((critic(pairs)[:, 0] - y) ** 2).mean() for critic in self.critics))
            with torch.no_grad():
                for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                    target.mul_(1.0 - c.target_rate).add_(c.target_rate * source)
        s = batches[-1].observation[0]
        action, log_prob = self.sample(s, noise["action"][0])
        pairs = torch.cat([s, action], dim=1)
        mean = torch.stack([critic(pairs)[:, 0] for critic in self.critics]).mean(dim=0)
        minimize(self.actor_optimizer, (self.log_alpha.exp().detach() * log_prob - mean).mean())
        target_entropy = -action.shape[1] / 2 if c.target_entropy == "auto" else c.target_entropy
        minimize(self.alpha_optimizer, -self.log_alpha.exp() * (log_prob.detach() + target_entropy).mean())


def minimize(optimizer: torch.optim.Optimizer, loss: Tensor | int) -> None:
    assert isinstance(loss, Tensor)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str) -> None:
    seeds, config = (3, 8), VARIANTS[name]
    agent = RLPD(config, continuous())
    state = agent.init(seeds, CPU)
    delay = config.policy_delay
    batches = random_batches(agent.spec, UPDATES * delay, len(seeds))
    cycles = [batches[i : i + delay] for i in range(0, len(batches), delay)]
    noises = random_noise(agent, UPDATES, len(seeds))
    plains = [PlainRLPD(config, state, position) for position in range(len(seeds))]
    for cycle, noise in zip(cycles, noises, strict=True):
        agent.update(state, cycle, noise)
    for position, plain in enumerate(plains):
        for cycle, noise in zip(cycles, noises, strict=True):
            plain.update([of_seed(batch, position) for batch in cycle], noise_of_seed(noise, position))
        assert_member_equals(state.actor, position, plain.actor)
        torch.testing.assert_close(state.temperature.log_alpha[position, 0], plain.log_alpha, rtol=0.0, atol=1e-5)
        for member in range(config.critics):
            assert_member_equals(state.critic, position, plain.critics[member], member)
            assert_member_equals(state.target_critic, position, plain.targets[member], member)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_keeps_the_contract(name: str) -> None:
    check_agent(ALGORITHM, continuous(), dataclasses.asdict(VARIANTS[name]) | {"hidden": [24, 24]})


def linear_agent(**options: float) -> tuple[RLPD, RLPDState, Batch]:
    """Critics Q₁ = 2s + 3a, Q₂ = s − 4a + 1 and Q₃ = 6 at s = 0.5, a = 0.2: 1.6, 0.7 and 6; a policy around 0."""
    config = dataclasses.replace(RLPDConfig(hidden=(), critics=3, policy_delay=1), **options)
    agent = RLPD(config, continuous(1, 1))
    state = agent.init([0], CPU)
    for network in (state.critic, state.target_critic):
        (layer,) = network.layers
        with torch.no_grad():
            layer.weight[0, :, 0] = torch.tensor([[2.0, 3.0], [1.0, -4.0], [0.0, 0.0]])
            layer.bias[0, :, 0, 0] = torch.tensor([0.0, 1.0, 6.0])
    with torch.no_grad():
        state.actor.flat.zero_()
    batch = Batch(
        observation=torch.tensor([[[0.5]]]),
        action=torch.tensor([[[0.2]]]),
        reward=torch.tensor([[1.0]]),
        discount=torch.tensor([[0.9]]),
        next_observation=torch.tensor([[[-1.0]]]),
        terminated=torch.zeros(1, 1),
    )
    return agent, state, batch


def log_density(draw: float) -> float:
    return -0.5 * draw**2 - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(draw) ** 2)


def test_losses_by_hand() -> None:
    agent, state, batch = linear_agent()
    loss, q = agent.critic_loss(state, batch, torch.tensor([[1.0]]))
    assert q.flatten().tolist() == pytest.approx([1.6, 0.7, 6.0])
    assert loss.item() == pytest.approx(0.6**2 + 0.3**2 + 5.0**2)
    weighted, _ = agent.critic_loss(
        state, dataclasses.replace(batch, weight=torch.tensor([[0.25]])), torch.tensor([[1.0]])
    )
    assert weighted.item() == pytest.approx(loss.item() / 4)
    # The spread is 1 and tanh 0.3 is drawn; the mean of all three counts.
    loss, entropy = agent.actor_loss(state, batch, torch.tensor([[[0.3]]]))
    action = math.tanh(0.3)
    assert entropy.item() == pytest.approx(-log_density(0.3), rel=1e-5)
    mean = (1.0 + 3.0 * action + 1.5 - 4.0 * action + 6.0) / 3
    assert loss.item() == pytest.approx(log_density(0.3) - mean, rel=1e-5)
    assert agent.target_entropy == -0.5
    assert agent.temperature_loss(state, torch.tensor([2.0])).item() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("count", "draws", "least"),
    [(1, [0.0, -1.0, 2.0], "Q2"), (2, [0.0, 3.0, 1.0], "Q1"), (2, [1.0, -1.0, 2.0], "Q1"), (3, [1.0, 2.0, 3.0], "Q1")],
)
@pytest.mark.parametrize("entropy_in_targets", [True, False])
def test_targets_by_hand(count: int, draws: list[float], least: str, entropy_in_targets: bool) -> None:
    """At s' = −1 and tanh −0.5: Q₁ = −2 + 3a is −3.4, Q₂ = −4a is 1.8, Q₃ is 6."""
    agent, state, batch = linear_agent(target_critics=count, entropy_in_targets=entropy_in_targets)
    action = math.tanh(-0.5)
    value = {"Q1": -2.0 + 3.0 * action, "Q2": -4.0 * action, "Q3": 6.0}[least]
    target = agent.targets(state, batch, torch.tensor([[[-0.5]]]), torch.tensor([draws]))
    assert target.item() == pytest.approx(1.0 + 0.9 * (value - entropy_in_targets * log_density(-0.5)), rel=1e-5)


def test_each_subset_of_the_critics_is_as_likely() -> None:
    values = torch.arange(4.0).view(1, 4, 1).expand(6_000, -1, -1)
    draws = torch.randn(6_000, 4, generator=torch.Generator().manual_seed(0))
    least = least_of_some(values, draws, 2).long().flatten().bincount(minlength=4)
    # Of six pairs three hold 0, two hold 1 without it, and one is 2 and 3.
    assert (least / 6_000).tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 6, 0.0], abs=0.02)


def test_errors_are_told_of_each_batch() -> None:
    agent = RLPD(SMALL, continuous())
    state = agent.init([0, 1], CPU)
    batches = random_batches(agent.spec, SMALL.policy_delay, 2)
    noise = random_noise(agent, 1, 2)[0]
    assert "td_error" not in agent.update(copy.deepcopy(state), batches, noise)
    weighted = [dataclasses.replace(batch, weight=torch.ones_like(batch.reward)) for batch in batches]
    error = agent.update(state, weighted, noise)["td_error"]
    assert error.shape == (SMALL.policy_delay, *batches[0].reward.shape)
    assert (error > 0.0).all()


def test_the_critics_alone_learn() -> None:
    agent = RLPD(SMALL, continuous())
    state = agent.init([0, 1], CPU)
    actor, critic = state.actor.flat.clone(), state.critic.flat.clone()
    agent.update_critic(state, random_batches(agent.spec, SMALL.policy_delay, 2), random_noise(agent, 1, 2)[0])
    assert torch.equal(state.actor.flat, actor)
    assert not torch.equal(state.critic.flat, critic)


def test_values_are_never_read() -> None:
    agent = RLPD(SMALL, continuous())
    state = agent.init([0], CPU)
    batches = random_batches(agent.spec, SMALL.policy_delay, 1)
    with no_values_read():
        agent.update(state, batches, random_noise(agent, 1, 1)[0])
        act(agent, state, batches[0].observation, torch.zeros(1, 8, 2))


def test_what_it_cannot_do_is_refused() -> None:
    for spec in (discrete(), unbounded()):
        with pytest.raises(SpaceMismatchError):
            RLPD(SMALL, spec)
    with pytest.raises(RecipeError, match="there are 4 critics, and targets are to be the least of 5"):
        RLPD(dataclasses.replace(SMALL, target_critics=5), continuous())
