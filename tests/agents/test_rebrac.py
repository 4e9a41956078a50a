"""ReBRAC against a plain single-seed implementation, hand-computed losses, and its records of what was done next."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from offrl.agents.rebrac import ALGORITHM, ReBRAC, ReBRACConfig, ReBRACState, goes_on, spares_clone
from offrl.errors import SpaceMismatchError
from offrl.testing import check_agent
from offrl.testing.random_data import RandomData
from offrl.types import Batch, Spec
from tests.agents.batches import CPU, act, continuous, discrete, no_values_read, of_seed, random_noise, unbounded
from tests.nn.plain import assert_member_equals, copy_of_member, fall_linearly

UPDATES = 6
SMALL = ReBRACConfig(
    hidden=(16, 12),
    actor_learning_rate=3e-3,
    critic_learning_rate=5e-3,
    target_rate=0.05,
    discount=0.9,
    actor_penalty=0.3,
    critic_penalty=0.7,
)
VARIANTS = {
    "as published": SMALL,
    "no penalties": dataclasses.replace(SMALL, actor_penalty=0.0, critic_penalty=0.0),
    "penalties that fall": dataclasses.replace(SMALL, penalty_decay=0.7, policy_delay=1),
    "rates that fall": dataclasses.replace(SMALL, decay_steps=9, policy_delay=3, layer_norm=False, activation="tanh"),
}


def batches_of(spec: Spec, count: int, seeds: int) -> list[Batch]:
    data = RandomData(spec, 3)
    return [data.transitions(seeds, 8, 0.9, columns=ALGORITHM.columns) for _ in range(count)]


def seen(part: Tensor | None) -> Tensor:
    assert part is not None
    return part


class PlainReBRAC:
    """The authors' updates, one transition matrix at a time, for one seed."""

    def __init__(self, config: ReBRACConfig, state: ReBRACState, seed: int) -> None:
        self.config = c = config
        self.actor = copy_of_member(state.actor, seed, c.activation)
        self.critics = nn.ModuleList(copy_of_member(state.critic, seed, c.activation, member) for member in range(2))
        self.target_actor, self.targets = copy.deepcopy(self.actor), copy.deepcopy(self.critics)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=c.actor_learning_rate)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=c.critic_learning_rate)
        fall_linearly(self.actor_optimizer, c.decay_steps // c.policy_delay)
        fall_linearly(self.critic_optimizer, c.decay_steps)
        self.left = 1.0

    def least(self, critics: nn.ModuleList, s: Tensor, a: Tensor) -> Tensor:
        return torch.stack([critic(torch.cat([s, a], dim=1))[:, 0] for critic in critics]).amin(dim=0)

    def update(self, batches: Sequence[Batch], draws: Tensor) -> None:
        c = self.config
        for batch, draw in zip(batches, draws, strict=True):
            s, a, s2 = batch.observation[0], batch.action[0], batch.next_observation[0]
            with torch.no_grad():
                noise = (c.target_noise * draw).clamp(-c.target_noise_clip, c.target_noise_clip)
                a2 = (torch.tanh(self.target_actor(s2)) + noise).clamp(-1.0, 1.0)
                next_q = self.least(self.targets, s2, a2)
                for row in range(len(next_q)):
                    if seen(batch.next_action_known)[0, row]:
                        gap = a2[row] - seen(batch.next_action)[0, row]
                        next_q[row] -= c.critic_penalty * self.left * (gap**2).sum()
                y = batch.reward[0] + c.discount * (1.0 - batch.terminated[0]) * next_q
            pairs = torch.cat([s, a], dim=1)
            step(self.critic_optimizer, sum(((critic(pairs)[:, 0] - y) ** 2).mean() for critic in self.critics))
        action = torch.tanh(self.actor(s))
        q = self.least(self.critics, s, action)
        bc = ((action - a) ** 2).sum(dim=1)
        step(self.actor_optimizer, (c.actor_penalty * self.left * bc - q / q.abs().mean().detach()).mean())
        self.left *= c.penalty_decay
        with torch.no_grad():
            pairs_of = [(self.target_actor, self.actor), (self.targets, self.critics)]
            for target, source in pairs_of:
                for theirs, ours in zip(target.parameters(), source.parameters(), strict=True):
                    theirs.mul_(1.0 - c.target_rate).add_(c.target_rate * ours)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str) -> None:
    seeds, config = (3, 8), VARIANTS[name]
    agent = ReBRAC(config, continuous())
    state = agent.init(seeds, CPU)
    delay = config.policy_delay
    batches = batches_of(agent.spec, UPDATES * delay, len(seeds))
    cycles = [batches[i * delay : (i + 1) * delay] for i in range(UPDATES)]
    noises = random_noise(agent, UPDATES, len(seeds))
    plains = [PlainReBRAC(config, state, position) for position in range(len(seeds))]
    for cycle, noise in zip(cycles, noises, strict=True):
        agent.update(state, cycle, noise)
    for position, plain in enumerate(plains):
        for cycle, noise in zip(cycles, noises, strict=True):
            plain.update([of_seed(batch, position) for batch in cycle], noise["target_policy"][position])
        assert_member_equals(state.actor, position, plain.actor)
        assert_member_equals(state.target_actor, position, plain.target_actor)
        for member in range(2):
            assert_member_equals(state.critic, position, plain.critics[member], member)
            assert_member_equals(state.target_critic, position, plain.targets[member], member)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_keeps_the_contract(name: str) -> None:
    check_agent(ALGORITHM, continuous(), dataclasses.asdict(VARIANTS[name]))


def linear() -> tuple[ReBRAC, ReBRACState]:
    """Critics Q₁ = 2s + 3a and Q₂ = s − 4a + 1, and a policy tanh(0.5 s), of two actions that are read alike."""
    config = ReBRACConfig(hidden=(), policy_delay=1, actor_penalty=0.1, critic_penalty=0.5, target_noise=1.0)
    agent = ReBRAC(config, continuous(1, 2))
    state = agent.init([0], CPU)
    with torch.no_grad():
        state.critic.layers[0].weight[0, :, 0] = torch.tensor([[2.0, 3.0, 0.0], [1.0, -4.0, 0.0]])
        state.critic.layers[0].bias[0, :, 0, 0] = torch.tensor([0.0, 1.0])
        state.actor.layers[0].weight[0, 0] = torch.tensor([[0.5], [0.5]])
        state.actor.layers[0].bias.zero_()
        state.target_critic.flat.copy_(state.critic.flat)
        state.target_actor.flat.copy_(state.actor.flat)
    return agent, state


def one_batch() -> Batch:
    """Three transitions from s = 0.4 to s' = −0.8; the second one has no next action, the third is terminal."""
    return Batch(
        observation=torch.full((1, 3, 1), 0.4),
        action=torch.tensor([[[0.2, 0.1], [0.2, 0.1], [0.2, 0.1]]]),
        reward=torch.ones(1, 3),
        discount=torch.tensor([[0.9, 0.9, 0.0]]),
        next_observation=torch.full((1, 3, 1), -0.8),
        terminated=torch.tensor([[0.0, 0.0, 1.0]]),
        next_action=torch.tensor([[[0.3, -0.3], [9.0, 9.0], [9.0, 9.0]]]),
        next_action_known=torch.tensor([[1.0, 0.0, 0.0]]),
    )


def test_targets_by_hand() -> None:
    """ã = tanh(−0.4) + 0.25 in the first component, and in the second clipped noise of −0.5 off tanh(−0.4)."""
    agent, state = linear()
    draws = torch.tensor([0.25, -3.0]).expand(1, 1, 3, 2).clone()
    targets, distance = agent.targets(state, [one_batch()], draws)
    first, second = -0.3799490 + 0.25, -0.3799490 - 0.5
    q = min(2 * -0.8 + 3 * first, -0.8 - 4 * first + 1)
    gap = (first - 0.3) ** 2 + (second + 0.3) ** 2
    expected = [1.0 + 0.9 * (q - 0.5 * gap), 1.0 + 0.9 * q, 1.0]
    assert targets.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert distance.item() == pytest.approx(gap / 3, rel=1e-5)
    # What is left of the penalty weighs it.
    state.penalty_weight.fill_(0.5)
    targets, _ = agent.targets(state, [one_batch()], draws)
    assert targets[0, 0, 0].item() == pytest.approx(1.0 + 0.9 * (q - 0.25 * gap), rel=1e-5)


def test_losses_by_hand() -> None:
    agent, state = linear()
    loss, q = agent.critic_loss(state, one_batch(), torch.ones(1, 3))
    assert q[0, :, 0].tolist() == pytest.approx([1.4, 0.6])
    assert loss.item() == pytest.approx(0.4**2 + 0.4**2)
    loss, distance = agent.actor_loss(state, one_batch())
    action = 0.1973753
    assert distance.item() == pytest.approx((action - 0.2) ** 2 + (action - 0.1) ** 2, rel=1e-4)
    # The least value, 0.4 − 4 · 0.197 + 1 = 0.61, over its own size.
    assert loss.item() == pytest.approx(0.1 * distance.item() - 1.0, rel=1e-5)


def test_without_a_next_action_the_one_handed_out_does_not_matter() -> None:
    agent = ReBRAC(SMALL, continuous())
    results = []
    for other in (0.0, 0.9):
        state = agent.init([0], CPU)
        batches = batches_of(agent.spec, 2, 1)
        changed = [
            dataclasses.replace(
                batch,
                next_action=torch.where(
                    seen(batch.next_action_known)[..., None] > 0, seen(batch.next_action), torch.tensor(other)
                ),
            )
            for batch in batches
        ]
        agent.update(state, changed, random_noise(agent, 1, 1)[0])
        results.append(state.critic.flat.clone())
    assert torch.equal(*results)


def test_the_critics_alone_learn() -> None:
    agent = ReBRAC(SMALL, continuous())
    state = agent.init([0, 1], CPU)
    actor, critic = state.actor.flat.clone(), state.critic.flat.clone()
    agent.update_critic(state, batches_of(agent.spec, 2, 2), random_noise(agent, 1, 2)[0])
    assert torch.equal(state.actor.flat, actor)
    assert not torch.equal(state.critic.flat, critic)


def test_values_are_never_read() -> None:
    agent = ReBRAC(SMALL, continuous())
    state = agent.init([0], CPU)
    batches = batches_of(agent.spec, 2, 1)
    with no_values_read():
        agent.update(state, batches, random_noise(agent, 1, 1)[0])
        act(agent, state, batches[0].observation, torch.zeros(1, 8, 2))


def test_going_on_lets_go_of_half_the_penalties() -> None:
    config = goes_on(dataclasses.replace(SMALL, decay_steps=100), updates=200.0, pretrained=True)
    assert config.decay_steps == 0
    assert config.actor_learning_rate == 3e-5
    assert config.penalty_decay**100 == pytest.approx(0.5)
    assert goes_on(config, updates=1_000.0, pretrained=False) == config
    assert goes_on(SMALL, updates=1.0, pretrained=False).penalty_decay == 1.0
    assert spares_clone(SMALL).actor_penalty == 1.0


def test_spaces_that_it_cannot_act_in_are_refused() -> None:
    for spec in (discrete(), unbounded()):
        with pytest.raises(SpaceMismatchError):
            ReBRAC(SMALL, spec)
