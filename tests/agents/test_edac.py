"""EDAC and SAC-N against a plain single-seed implementation, hand-computed losses, and themselves on the seed axis."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions.transforms import TanhTransform

from offrl.agents.edac import ALGORITHM, EDAC, EDACConfig, EDACState, mean_cosine
from offrl.errors import SpaceMismatchError
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

UPDATES = 8
SMALL = EDACConfig(
    hidden=(16, 12),
    actor_learning_rate=3e-3,
    critic_learning_rate=5e-3,
    temperature_learning_rate=2e-2,
    target_rate=0.05,
    critics=4,
    initial_temperature=0.5,
)
VARIANTS = {
    "EDAC": SMALL,
    "SAC-N": dataclasses.replace(SMALL, diversity=0.0, critics=6),
    "strongly apart, smooth": dataclasses.replace(SMALL, diversity=5.0, activation="tanh"),
    "rates that fall": dataclasses.replace(SMALL, decay_steps=6, target_entropy=-1.0),
}


class PlainEDAC:
    """The paper's algorithm 1 in the authors' order of steps, for one seed."""

    def __init__(self, config: EDACConfig, state: EDACState, seed: int) -> None:
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
        for optimizer in (self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer):
            fall_linearly(optimizer, c.decay_steps)

    def sample(self, s: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(s).chunk(2, dim=1)
        before = mean + log_std.exp() * draws
        action = before.tanh()
        jacobian = TanhTransform().log_abs_det_jacobian(before, action)
        return action, (Normal(mean, log_std.exp()).log_prob(before) - jacobian).sum(dim=1)

    def least(self, critics: nn.ModuleList, s: Tensor, a: Tensor) -> Tensor:
        return torch.stack([critic(torch.cat([s, a], dim=1))[:, 0] for critic in critics]).amin(dim=0)

    def update(self, batch: Batch, noise: Noise) -> None:
        c, s, a, s2 = self.config, batch.observation[0], batch.action[0], batch.next_observation[0]
        alpha = self.log_alpha.exp().detach()
        new_action, log_prob = self.sample(s, noise["action"][0])
        actor_loss = (alpha * log_prob - self.least(self.critics, s, new_action)).mean()
        target_entropy = -a.shape[1] if c.target_entropy == "auto" else c.target_entropy
        step(self.alpha_optimizer, -(self.log_alpha * (log_prob.detach() + target_entropy)).mean())
        step(self.actor_optimizer, actor_loss)
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            next_action, next_log_prob = self.sample(s2, noise["next_action"][0])
            value = self.least(self.targets, s2, next_action) - alpha * next_log_prob
            y = batch.reward[0] + 0.9 * (1.0 - batch.terminated[0]) * value
        step(self.critic_optimizer, self.squares(s, a, y) + c.diversity * self.diversity(s, a))
        with torch.no_grad():
            for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.mul_(1.0 - c.target_rate).add_(c.target_rate * source)

    def squares(self, s: Tensor, a: Tensor, y: Tensor) -> Tensor:
        pairs = torch.cat([s, a], dim=1)
        return torch.stack([((critic(pairs)[:, 0] - y) ** 2).mean() for critic in self.critics]).sum()

    def diversity(self, s: Tensor, a: Tensor) -> Tensor:
        """Pair by pair, as the paper writes it."""
        slopes = []
        for critic in self.critics:
            action = a.clone().requires_grad_()
            q = critic(torch.cat([s, action], dim=1)).sum()
            slopes.append(torch.autograd.grad(q, action, create_graph=True)[0])
        cosines = [
            nn.functional.cosine_similarity(one, other, dim=1)
            for i, one in enumerate(slopes)
            for j, other in enumerate(slopes)
            if i != j
        ]
        return torch.stack(cosines).sum(dim=0).mean() / (len(slopes) - 1)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str) -> None:
    seeds, config = (3, 8), VARIANTS[name]
    agent = EDAC(config, continuous())
    state = agent.init(seeds, CPU)
    batches = random_batches(agent.spec, UPDATES, len(seeds))
    noises = random_noise(agent, UPDATES, len(seeds))
    plains = [PlainEDAC(config, state, position) for position in range(len(seeds))]
    for batch, noise in zip(batches, noises, strict=True):
        agent.update(state, [batch], noise)
    for position, plain in enumerate(plains):
        for batch, noise in zip(batches, noises, strict=True):
            plain.update(of_seed(batch, position), noise_of_seed(noise, position))
        assert_member_equals(state.actor, position, plain.actor)
        torch.testing.assert_close(state.temperature.log_alpha[position, 0], plain.log_alpha, rtol=0.0, atol=1e-5)
        for member in range(config.critics):
            assert_member_equals(state.critic, position, plain.critics[member], member)
            assert_member_equals(state.target_critic, position, plain.targets[member], member)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_keeps_the_contract(name: str) -> None:
    # Directions of slopes magnify rounding where slopes are small, as those of a few rectified units are.
    check_agent(
        ALGORITHM, continuous(), dataclasses.asdict(VARIANTS[name]) | {"hidden": [24, 24], "activation": "tanh"}
    )


def test_the_mean_cosine_by_hand() -> None:
    """Three critics at two states. At the first slopes are (1, 0), (2, 0), (0, 3): one pair of three points alike, at
    the second (1, 0), (−1, 0), (0, 1): one pair is opposed. Each pair counts twice, over N − 1 = 2."""
    slopes = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [-1.0, 0.0]], [[0.0, 3.0], [0.0, 1.0]]]])
    assert mean_cosine(slopes).item() == pytest.approx((1.0 - 1.0) / 2)
    assert mean_cosine(slopes[:, :, :1]).item() == pytest.approx(1.0)
    assert mean_cosine(slopes[:, :, 1:]).item() == pytest.approx(-1.0)


def test_losses_by_hand() -> None:
    """Linear critics Q₁ = 2s + 3a and Q₂ = s − 4a + 1 at s = 0.5, a = 0.2: 1.6 and 0.7; their slopes are opposed."""
    agent = EDAC(EDACConfig(hidden=(), critics=2, diversity=0.5), continuous(1, 1))
    state = agent.init([0], CPU)
    (layer,) = state.critic.layers
    with torch.no_grad():
        layer.weight[0, :, 0] = torch.tensor([[2.0, 3.0], [1.0, -4.0]])
        layer.bias[0, :, 0, 0] = torch.tensor([0.0, 1.0])
    batch = Batch(
        observation=torch.tensor([[[0.5]]]),
        action=torch.tensor([[[0.2]]]),
        reward=torch.tensor([[1.0]]),
        discount=torch.tensor([[0.9]]),
        next_observation=torch.tensor([[[-1.0]]]),
        terminated=torch.zeros(1, 1),
    )
    loss, metrics = agent.critic_loss(state, batch, torch.tensor([[1.0]]))
    assert metrics["q"].flatten().tolist() == pytest.approx([1.6, 0.7])
    # Two pairs, each of cosine −1, over N − 1 = 1.
    assert loss.item() == pytest.approx(0.6**2 + 0.3**2 + 0.5 * -2.0)
    assert "td_error" not in metrics
    # In prioritized replay the squares are weighted, the cosines aren't.
    weighted = dataclasses.replace(batch, weight=torch.tensor([[0.25]]))
    loss, metrics = agent.critic_loss(state, weighted, torch.tensor([[1.0]]))
    assert loss.item() == pytest.approx((0.6**2 + 0.3**2) / 4 + 0.5 * -2.0)
    torch.testing.assert_close(metrics["td_error"], torch.tensor([[[0.45]]]))
    # The policy's mean is 0 and its spread 1: tanh 0.3 is drawn, and the lower critic counts.
    with torch.no_grad():
        state.actor.flat.zero_()
    loss, entropy = agent.actor_loss(state, batch, torch.tensor([[[0.3]]]))
    log_prob = -0.5 * 0.09 - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(0.3) ** 2)
    assert entropy.item() == pytest.approx(-log_prob, rel=1e-5)
    assert loss.item() == pytest.approx(log_prob - (1.5 - 4.0 * math.tanh(0.3)), rel=1e-5)


def test_diversity_turns_slopes_apart() -> None:
    """With nothing to predict but noise, critics' slopes end up farther apart than without the term."""
    found = {}
    for weight in (0.0, 5.0):
        agent = EDAC(dataclasses.replace(SMALL, diversity=weight), continuous())
        state = agent.init([0], CPU)
        (batch,) = random_batches(agent.spec, 1, 1, batch_size=64)
        for draws in random_noise(agent, 40, 1, batch_size=64):
            agent.update_critic(state, [batch], draws)
        probe = EDAC(dataclasses.replace(SMALL, diversity=1.0), continuous())
        found[weight] = probe.critic_loss(state, batch, batch.reward)[1]["cosines"].item()
    assert found[5.0] < found[0.0] - 0.5


def test_the_critics_alone_learn() -> None:
    agent = EDAC(SMALL, continuous())
    state = agent.init([0, 1], CPU)
    actor, critic = state.actor.flat.clone(), state.critic.flat.clone()
    agent.update_critic(state, random_batches(agent.spec, 1, 2), random_noise(agent, 1, 2)[0])
    assert torch.equal(state.actor.flat, actor)
    assert not torch.equal(state.critic.flat, critic)


def test_values_are_never_read() -> None:
    agent = EDAC(SMALL, continuous())
    state = agent.init([0], CPU)
    batches = random_batches(agent.spec, 1, 1)
    with no_values_read():
        agent.update(state, batches, random_noise(agent, 1, 1)[0])
        act(agent, state, batches[0].observation, torch.zeros(1, 8, 2))


def test_spaces_that_it_cannot_act_in_are_refused() -> None:
    for spec in (discrete(), unbounded()):
        with pytest.raises(SpaceMismatchError):
            EDAC(SMALL, spec)
