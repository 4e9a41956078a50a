"""Discrete BCQ against a plain single-seed implementation, hand-computed thresholds and losses, and itself."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from offrl.agents.bcq import ALGORITHM, BCQ, BCQConfig, BCQState, likely_enough
from offrl.errors import SpaceMismatchError
from offrl.testing import check_agent
from offrl.types import Batch, Spec
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

UPDATES, ACTIONS, FIRST = 8, 5, 2
SMALL = BCQConfig(hidden=(16, 12), learning_rate=5e-3, target_rate=0.05, max_gradient_norm=0.0)
VARIANTS = {
    "plain": SMALL,
    "a high threshold": dataclasses.replace(SMALL, threshold=0.85),
    "double DQN": dataclasses.replace(SMALL, threshold=0.0),
    "everything": dataclasses.replace(
        SMALL,
        threshold=0.8,
        logit_penalty=0.3,
        activation="tanh",
        layer_norm=True,
        max_gradient_norm=0.5,
        target_rate=1.0,
        target_every=3,
        decay_steps=10,
    ),
}


def batches_of(spec: Spec, count: int, seeds: int) -> list[Batch]:
    """With masks that allow what was done, and importance weights."""
    generator = torch.Generator().manual_seed(3)
    plain = [masked(batch, spec, generator) for batch in random_batches(spec, count, seeds)]
    return [dataclasses.replace(b, weight=torch.rand(b.reward.shape, generator=generator)) for b in plain]


class PlainBCQ:
    """The paper's algorithm 1, with probabilities where ours has logits, for one seed."""

    def __init__(self, config: BCQConfig, state: BCQState, seed: int) -> None:
        self.config = c = config
        self.value = copy_of_member(state.network.value, seed, c.activation)
        self.behavior = copy_of_member(state.network.behavior, seed, c.activation)
        self.target = copy.deepcopy(self.value)
        self.weights = [*self.value.parameters(), *self.behavior.parameters()]
        self.optimizer = torch.optim.Adam(self.weights, lr=c.learning_rate)
        fall_linearly(self.optimizer, c.decay_steps)
        self.updates = 0

    def update(self, batch: Batch) -> None:
        c, s, s2 = self.config, batch.observation[0], batch.next_observation[0]
        assert batch.action_mask is not None
        assert batch.next_action_mask is not None
        assert batch.weight is not None
        action, mask = batch.action[0] - FIRST, batch.action_mask[0]
        with torch.no_grad():
            g = self.behavior(s2).softmax(dim=1) * batch.next_action_mask[0]
            g = g / g.sum(dim=1, keepdim=True)
            fine = (g / g.max(dim=1, keepdim=True)[0]) > c.threshold
            best = torch.where(fine, self.value(s2), -1e8).argmax(dim=1, keepdim=True)
            y = batch.reward[0] + 0.9 * (1.0 - batch.terminated[0]) * self.target(s2).gather(1, best)[:, 0]
        q = self.value(s).gather(1, action[:, None])[:, 0]
        logits = self.behavior(s)
        loss = functional.smooth_l1_loss(q, y, reduction="none")
        loss = loss + functional.cross_entropy(torch.where(mask, logits, -1e8), action, reduction="none")
        loss = loss + c.logit_penalty * (logits * mask).pow(2).mean(dim=1)
        self.optimizer.zero_grad()
        (batch.weight[0] * loss).mean().backward()
        if c.max_gradient_norm:
            nn.utils.clip_grad_norm_(self.weights, c.max_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        if self.updates % c.target_every == 0:
            with torch.no_grad():
                for target, source in zip(self.target.parameters(), self.value.parameters(), strict=True):
                    target.mul_(1.0 - c.target_rate).add_(c.target_rate * source)


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str) -> None:
    seeds, config = (3, 8), VARIANTS[name]
    agent = BCQ(config, discrete(actions=ACTIONS, start=FIRST))
    state = agent.init(seeds, CPU)
    batches = batches_of(agent.spec, UPDATES, len(seeds))
    plains = [PlainBCQ(config, state, position) for position in range(len(seeds))]
    for batch in batches:
        agent.update(state, [batch], {})
    for position, plain in enumerate(plains):
        for batch in batches:
            plain.update(of_seed(batch, position))
        assert_member_equals(state.network.value, position, plain.value)
        assert_member_equals(state.network.behavior, position, plain.behavior)
        assert_member_equals(state.target_network.value, position, plain.target)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_keeps_the_contract(name: str) -> None:
    # Adam's first steps are as long for gradients that are all rounding: short ones stay within the tolerance.
    options = dataclasses.asdict(VARIANTS[name]) | {"learning_rate": 3e-4}
    check_agent(ALGORITHM, discrete(actions=ACTIONS, start=FIRST), options)


def test_convolutions_are_shared_and_hidden_layers_are_not() -> None:
    camera = gym.spaces.Box(0, 255, (9, 8, 2), np.uint8)
    agent = BCQ(dataclasses.replace(SMALL, convolutions=((4, 3, 2),)), Spec(camera, gym.spaces.Discrete(3)))
    network = agent.init((0,), CPU).network
    values, logits = network(torch.randint(0, 256, (1, 4, 9, 8, 2), dtype=torch.uint8))
    for output, own, other in ((values, network.value, network.behavior), (logits, network.behavior, network.value)):
        parts = [next(network.encoder.parameters()), next(own.parameters()), next(other.parameters())]
        shared, mine, theirs = torch.autograd.grad(output.sum(), parts, retain_graph=True, allow_unused=True)
        assert shared.abs().sum() > 0.0
        assert mine.abs().sum() > 0.0
        assert theirs is None


# The threshold and the losses by hand


PROBABILITIES = torch.tensor([[[0.5, 0.3, 0.16, 0.04]]])


@pytest.mark.parametrize(
    ("threshold", "mask", "expected"),
    [
        # Ratios to the largest: 1, 0.6, 0.32, 0.08.
        (0.3, None, [True, True, True, False]),
        (0.33, None, [True, True, False, False]),
        (0.0, None, [True, True, True, True]),
        (0.999, None, [True, False, False, False]),
        # Without the first: 1, 0.53, 0.13.
        (0.3, [False, True, True, True], [False, True, True, False]),
        (0.3, [False, False, False, True], [False, False, False, True]),
        (0.0, [False, True, False, True], [False, True, False, True]),
    ],
)
def test_actions_are_likely_enough_by_their_ratio_to_the_likeliest_allowed_one(
    threshold: float, mask: list[bool] | None, expected: list[bool]
) -> None:
    masks = None if mask is None else torch.tensor([[mask]])
    for shift in (0.0, 3.0):
        found = likely_enough(PROBABILITIES.log() + shift, masks, threshold)
        assert found.flatten().tolist() == expected


def hand_set_agent(**options: Any) -> tuple[BCQ, BCQState]:
    """In all states Q = (1, 2, 3, 9), Q' = (4, 5, −6, 7), and G as above: the best value is of an unlikely action."""
    agent = BCQ(BCQConfig(hidden=(), max_gradient_norm=0.0, **options), discrete(1, 4))
    state = agent.init((0,), CPU)
    for network, values in ((state.network, [1.0, 2.0, 3.0, 9.0]), (state.target_network, [4.0, 5.0, -6.0, 7.0])):
        network.flat.zero_()
        set_bias(network.value, torch.tensor(values))
        set_bias(network.behavior, PROBABILITIES.flatten().log())
    return agent, state


def set_bias(network: nn.Module, values: Tensor) -> None:
    network.layers[-1].bias.data[0].copy_(values.view(1, 1, -1))  # type: ignore[index, union-attr, operator]


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
    ("threshold", "mask", "value"),
    [
        (0.3, None, -6.0),
        (0.5, None, 5.0),
        (0.0, None, 7.0),
        (0.3, [True, True, False, True], 5.0),
        (0.3, [False, False, False, True], 7.0),
    ],
)
def test_the_target_is_of_the_best_likely_action(threshold: float, mask: list[bool] | None, value: float) -> None:
    agent, state = hand_set_agent(threshold=threshold)
    masks = None if mask is None else torch.tensor([[mask]])
    batch = one_transition(0.5, 0.9, 0, next_action_mask=masks)
    assert agent.targets(state, batch).item() == pytest.approx(0.5 + 0.9 * value)


def test_losses_by_hand() -> None:
    """Q(s, a₁) = 2 and y = 0.5: beyond 1 the loss is linear. Among a₀ and a₁, a₁ has a chance of 3/8."""
    agent, state = hand_set_agent(logit_penalty=0.1)
    extras = {"action_mask": torch.tensor([[[True, False, False, False]]]), "weight": torch.tensor([[2.0]])}
    metrics = agent.update(state, [one_transition(0.5, 0.0, 1, **extras)], {})
    assert metrics["td_loss"].item() == pytest.approx(2.0 * (1.5 - 0.5))
    assert metrics["imitation_loss"].item() == pytest.approx(2.0 * -math.log(3.0 / 8.0), rel=1e-5)
    squares = math.log(0.5) ** 2 + math.log(0.3) ** 2
    assert metrics["logit_penalty"].item() == pytest.approx(2.0 * 0.1 * squares / 4, rel=1e-5)
    assert metrics["td_error"].shape == (1, 1, 1)
    assert metrics["td_error"].item() == pytest.approx(1.5)


def test_the_best_likely_action_is_taken() -> None:
    agent, state = hand_set_agent()
    observation = torch.zeros(1, 3, 1)
    assert act(agent, state, observation).tolist() == [[2, 2, 2]]
    allowed = [[True, True, False, True], [True, False, False, False], [False, False, False, True]]
    assert act(agent, state, observation, None, torch.tensor([allowed])).tolist() == [[1, 0, 3]]


def test_values_are_never_read() -> None:
    agent = BCQ(VARIANTS["everything"], discrete(actions=ACTIONS, start=FIRST))
    state = agent.init([0], CPU)
    batches = batches_of(agent.spec, 1, 1)
    with no_values_read():
        agent.update(state, batches, {})
        act(agent, state, batches[0].observation, torch.zeros(1, 8, ACTIONS), batches[0].action_mask)


@pytest.mark.parametrize("spec", [continuous(), multi_discrete()])
def test_spaces_that_it_cannot_act_in_are_refused(spec: Spec) -> None:
    with pytest.raises(SpaceMismatchError):
        BCQ(SMALL, spec)
