"""QR-DQN against a plain single-seed implementation, hand-computed targets and losses, and itself on the seed axis."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offrl.agents.qrdqn import ALGORITHM, QRDQN, QRDQNConfig, QRDQNState
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.nn.q_network import QNetwork
from offrl.testing import check_agent
from offrl.types import Batch
from tests.agents.batches import (
    CPU,
    act,
    continuous,
    discrete,
    masked,
    multi_discrete,
    no_values_read,
    of_seed,
    random_batches,
)
from tests.nn.plain import assert_member_equals, copy_of_member, fall_linearly

UPDATES, ACTIONS, FIRST = 8, 4, 2
SMALL = QRDQNConfig(hidden=(16, 12), quantiles=5, learning_rate=5e-3, target_rate=0.05, max_gradient_norm=0.0)
VARIANTS = {
    "plain": SMALL,
    "double": dataclasses.replace(SMALL, double=True),
    "conservative": dataclasses.replace(SMALL, conservative=1.5),
    "everything": dataclasses.replace(
        SMALL,
        double=True,
        dueling=True,
        conservative=0.5,
        quantiles=3,
        activation="tanh",
        layer_norm=True,
        max_gradient_norm=0.05,
        target_rate=1.0,
        target_every=3,
        decay_steps=10,
    ),
}


def batches_of(spec: Any, count: int, seeds: int) -> list[Batch]:
    """With masks that allow what was done, and importance weights."""
    generator = torch.Generator().manual_seed(3)
    plain = [masked(batch, spec, generator) for batch in random_batches(spec, count, seeds)]
    return [dataclasses.replace(b, weight=torch.rand(b.reward.shape, generator=generator)) for b in plain]


class PlainNetwork(nn.Module):
    """One seed's streams as plain modules."""

    def __init__(self, config: QRDQNConfig, network: QNetwork, seed: int) -> None:
        super().__init__()
        self.quantiles = config.quantiles
        self.streams = nn.ModuleList(copy_of_member(part, seed, config.activation) for part in network.parts)  # type: ignore[arg-type]

    def forward(self, s: Tensor) -> Tensor:
        """[B, A, N]."""
        outputs = [stream(s).reshape(len(s), -1, self.quantiles) for stream in self.streams]
        if len(outputs) == 1:
            return outputs[0]
        return outputs[0] + (outputs[1] - outputs[1].mean(dim=1, keepdim=True))


class PlainQRDQN:
    """The paper's algorithm 1 with plain loops over quantiles, for one seed."""

    def __init__(self, config: QRDQNConfig, state: QRDQNState, seed: int) -> None:
        self.config = c = config
        self.network = PlainNetwork(c, state.network, seed)
        self.target = copy.deepcopy(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=c.learning_rate)
        fall_linearly(self.optimizer, c.decay_steps)
        self.updates = 0

    def update(self, batch: Batch) -> None:
        c, s, s2 = self.config, batch.observation[0], batch.next_observation[0]
        rows = torch.arange(len(s))
        with torch.no_grad():
            following = self.target(s2)
            choosing = (self.network if c.double else self.target)(s2).mean(dim=2)
            best = torch.where(batch.next_action_mask[0], choosing, -1e9).argmax(dim=1)  # type: ignore[index]
            y = batch.reward[0, :, None] + 0.9 * (1.0 - batch.terminated[0])[:, None] * following[rows, best]
        theta = self.network(s)
        taken = theta[rows, batch.action[0] - FIRST]
        loss = torch.zeros(len(s))
        for i in range(c.quantiles):
            tau = (2 * (i + 1) - 1) / (2 * c.quantiles)
            for j in range(c.quantiles):
                u = y[:, j] - taken[:, i]
                huber = torch.where(u.abs() <= 1.0, 0.5 * u**2, u.abs() - 0.5)
                loss = loss + torch.abs(tau - (u < 0.0).float()) * huber / c.quantiles
        q = theta.mean(dim=2)
        possible = torch.where(batch.action_mask[0], q, -torch.inf)  # type: ignore[index]
        loss = loss + c.conservative * (torch.logsumexp(possible, dim=1) - taken.mean(dim=1))
        self.optimizer.zero_grad()
        (batch.weight[0] * loss).mean().backward()  # type: ignore[index]
        if c.max_gradient_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), c.max_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        if self.updates % c.target_every == 0:
            with torch.no_grad():
                for target, source in zip(self.target.parameters(), self.network.parameters(), strict=True):
                    target.mul_(1.0 - c.target_rate).add_(c.target_rate * source)


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str) -> None:
    seeds, config = (3, 8), VARIANTS[name]
    agent = QRDQN(config, discrete(actions=ACTIONS, start=FIRST))
    state = agent.init(seeds, CPU)
    batches = batches_of(agent.spec, UPDATES, len(seeds))
    plains = [PlainQRDQN(config, state, position) for position in range(len(seeds))]
    for batch in batches:
        agent.update(state, [batch], {})
    for position, plain in enumerate(plains):
        for batch in batches:
            plain.update(of_seed(batch, position))
        for network, reference in ((state.network, plain.network), (state.target_network, plain.target)):
            for part, stream in zip(network.parts, reference.streams, strict=True):
                assert_member_equals(part, position, stream)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", VARIANTS)
def test_it_keeps_the_contract(name: str) -> None:
    # Adam's first steps are as long for gradients that are all rounding: short ones stay within the tolerance.
    options = dataclasses.asdict(VARIANTS[name]) | {"learning_rate": 3e-4}
    check_agent(ALGORITHM, discrete(actions=ACTIONS, start=FIRST), options)


def hand_set_agent(**options: Any) -> tuple[QRDQN, QRDQNState]:
    """Two quantiles of three actions, the same in all states: θ = (0, 2), (1, 2), (−1, 6); θ' = (4, 0), (1, 1), (3, 3).

    Their means are 1, 1.5 and 2.5; those of the target network 2, 1 and 3.
    """
    agent = QRDQN(QRDQNConfig(hidden=(), quantiles=2, max_gradient_norm=0.0, **options), discrete(1, 3))
    state = agent.init((0,), CPU)
    for network, values in (
        (state.network, [0.0, 2.0, 1.0, 2.0, -1.0, 6.0]),
        (state.target_network, [4.0, 0.0, 1.0, 1.0, 3.0, 3.0]),
    ):
        network.flat.zero_()
        network.parts[0].layers[-1].bias.data[0].copy_(torch.tensor(values).view(1, 1, -1))
    return agent, state


def one_transition(reward: float, discount: float, action: int, **extras: Any) -> Batch:
    return Batch(
        observation=torch.tensor([[[0.5]]]),
        action=torch.tensor([[action]]),
        reward=torch.tensor([[reward]]),
        discount=torch.tensor([[discount]]),
        next_observation=torch.tensor([[[2.0]]]),
        terminated=torch.tensor([[float(discount == 0.0)]]),
        **extras,
    )


@pytest.mark.parametrize(
    ("mask", "double", "quantiles"),
    [
        ([True, True, True], False, [3.0, 3.0]),
        ([True, True, False], False, [4.0, 0.0]),
        ([True, True, False], True, [1.0, 1.0]),
    ],
)
def test_targets_are_the_quantiles_of_the_best_allowed_mean(
    mask: list[bool], double: bool, quantiles: list[float]
) -> None:
    agent, state = hand_set_agent(double=double)
    batch = one_transition(0.5, 0.9, 0, next_action_mask=torch.tensor([[mask]]))
    assert agent.targets(state, batch).flatten().tolist() == pytest.approx([0.5 + 0.9 * q for q in quantiles])


def test_a_terminal_transition_is_worth_its_reward() -> None:
    """θ(a₀) = (0, 2), y = (1, 1): u = 1 and −1; of τ = 1/4 and 3/4 both weigh 1/4: 1/4 · 1/2 twice."""
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(1.0, 0.0, 0)], {})
    assert metrics["td_loss"].item() == pytest.approx(0.25)
    assert metrics["target_q"].item() == 1.0
    assert metrics["q"].flatten().tolist() == pytest.approx([1.0, 1.5, 2.5])
    assert "td_error" not in metrics


def test_the_conservative_gap_is_of_the_means() -> None:
    """log(e¹ + e^1.5) − 1 where the third action is forbidden; a weight of 1/2 halves it."""
    agent, state = hand_set_agent(conservative=2.0)
    extras = {"action_mask": torch.tensor([[[True, True, False]]]), "weight": torch.tensor([[0.5]])}
    metrics = agent.update(state, [one_transition(1.0, 0.0, 0, **extras)], {})
    assert metrics["conservative_gap"].item() == pytest.approx(0.5 * 0.974077, rel=1e-5)
    assert metrics["td_loss"].item() == pytest.approx(0.5 * 0.25)


def test_td_errors_are_of_the_means() -> None:
    """Where errors are weighted: Q(s, a₂) = 2.5, and y = 1."""
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(1.0, 0.0, 2, weight=torch.tensor([[0.5]]))], {})
    assert metrics["td_error"].shape == (1, 1, 1)
    assert metrics["td_error"].item() == pytest.approx(1.5)


def test_the_action_of_the_best_allowed_mean_is_taken() -> None:
    agent, state = hand_set_agent()
    observation = torch.zeros(1, 2, 1)
    assert act(agent, state, observation).tolist() == [[2, 2]]
    masks = torch.tensor([[[True, True, False], [True, False, False]]])
    assert act(agent, state, observation, None, masks).tolist() == [[1, 0]]


def test_quantiles_of_a_known_distribution_are_learned() -> None:
    """Rewards of 0 or 10, equally often, and no more: half of the quantiles lie near either."""
    config = dataclasses.replace(SMALL, quantiles=8, hidden=(), learning_rate=0.05)
    agent = QRDQN(config, discrete(1, 2))
    state = agent.init((0,), CPU)
    rewards = torch.tensor([0.0, 10.0]).repeat(32).unsqueeze(0)
    batch = Batch(
        observation=torch.zeros(1, 64, 1),
        action=torch.zeros(1, 64, dtype=torch.int64),
        reward=rewards,
        discount=torch.zeros(1, 64),
        next_observation=torch.zeros(1, 64, 1),
        terminated=torch.ones(1, 64),
    )
    for _ in range(600):
        agent.update(state, [batch], {})
    found = state.network(torch.zeros(1, 1, 1))[0, 0, 0].sort().values
    assert found[:4].max().item() < 1.0
    assert found[4:].min().item() > 9.0


def test_values_are_never_read() -> None:
    agent = QRDQN(VARIANTS["everything"], discrete(actions=ACTIONS, start=FIRST))
    state = agent.init([0], CPU)
    batches = batches_of(agent.spec, 1, 1)
    with no_values_read():
        agent.update(state, batches, {})
        act(agent, state, batches[0].observation, torch.zeros(1, 8, ACTIONS), batches[0].action_mask)


@pytest.mark.parametrize("spec", [continuous(), multi_discrete()])
def test_spaces_that_it_cannot_act_in_are_refused(spec: Any) -> None:
    with pytest.raises(SpaceMismatchError):
        QRDQN(SMALL, spec)


def test_convolutions_without_an_image_are_refused() -> None:
    with pytest.raises(RecipeError, match="no image"):
        QRDQN(dataclasses.replace(SMALL, convolutions=((4, 3, 1),)), discrete())
