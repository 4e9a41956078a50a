"""Masks: the best allowed action, samples that are allowed, their probabilities, and learning from nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from offrl import plugins
from offrl.agents.bc import BC, BCConfig
from offrl.agents.sac import SAC, SACConfig
from offrl.agents.sqil import half_and_half
from offrl.nn.state import state_tensors
from offrl.ops.minibatches import without_time
from offrl.testing import Trial
from offrl.types import Batch, Density, Validates
from tests.agents.batches import CPU, act, discrete, masked, multi_discrete, random_batches, random_rollouts

SEEDS, ROWS, ACTIONS, FIRST = 2, 400, 4, 3
SPEC = discrete(3, ACTIONS, start=FIRST)
OPTIONS: dict[str, dict[str, Any]] = {
    "bc": {},
    "bcq": {},
    "dqn": {},
    "gail": {"generator": "sac"},
    "iql": {},
    "ppo": {},
    "qrdqn": {},
    "sac": {},
    "sqil": {"generator": "dqn"},
}
with_density = pytest.mark.parametrize("algo", ["bc", "gail", "iql", "ppo", "sac"])
every = pytest.mark.parametrize("algo", list(OPTIONS))


def made(algo: str) -> tuple[Any, Any]:
    record = plugins.algorithms[algo]
    options = record.options(OPTIONS[algo])
    assert record.learner(options).masks
    agent: Any = record.build(options, SPEC)
    return agent, agent.init((0, 5), CPU)


def shown() -> tuple[Tensor, Tensor]:
    """Observations [S, N, 3] and masks [S, N, 4]."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(SEEDS, ROWS, ACTIONS, generator=generator) < 0.5
    mask[..., 1] |= ~mask.any(dim=-1)
    return 3.0 * torch.randn(SEEDS, ROWS, 3, generator=generator), mask


def allowed(mask: Tensor, action: Tensor) -> Tensor:
    return mask.gather(-1, action.unsqueeze(-1) - FIRST).squeeze(-1)


@every
def test_the_greedy_action_is_the_best_allowed_one(algo: str) -> None:
    """Found out by other masks: beside the one that is taken where it is forbidden, it is taken."""
    (agent, state), (observation, mask) = made(algo), shown()
    action = act(agent, state, observation, None, mask)
    assert allowed(mask, action).all()
    best = act(agent, state, observation)
    free = allowed(mask, best)
    assert 0.2 < free.float().mean() < 0.9
    torch.testing.assert_close(action[free], best[free])
    everything = torch.ones_like(mask)
    torch.testing.assert_close(act(agent, state, observation, None, everything), best)
    # Without the action that was taken, another is; and that one loses against it.
    rest = mask & ~torch.nn.functional.one_hot(action - FIRST, ACTIONS).bool()
    several = rest.any(dim=-1)
    rest[~several] = mask[~several]
    second = act(agent, state, observation, None, rest)
    both = torch.nn.functional.one_hot(action - FIRST, ACTIONS) | torch.nn.functional.one_hot(second - FIRST, ACTIONS)
    torch.testing.assert_close(act(agent, state, observation, None, both.bool()), action)
    assert (second != action)[several].all()


@every
def test_samples_are_allowed(algo: str) -> None:
    (agent, state), (observation, mask) = made(algo), shown()
    noise = torch.randn(SEEDS, ROWS, *agent.acting_noise_shape, generator=torch.Generator().manual_seed(4))
    sampled = act(agent, state, observation, noise, mask)
    assert allowed(mask, sampled).all()
    assert (sampled != act(agent, state, observation, None, mask)).any()


@with_density
def test_probabilities_are_of_allowed_actions(algo: str) -> None:
    (agent, state), (observation, mask) = made(algo), shown()
    carry = agent.initial_carry(state, ROWS)
    every_action = [torch.full((SEEDS, ROWS), FIRST + action) for action in range(ACTIONS)]
    masked = torch.stack([agent.log_prob(state, observation, a, carry, mask) for a in every_action], dim=-1).exp()
    free = torch.stack([agent.log_prob(state, observation, a, carry) for a in every_action], dim=-1).exp() * mask
    assert (masked[~mask] == 0.0).all()
    torch.testing.assert_close(masked, free / free.sum(dim=-1, keepdim=True))


@with_density
def test_samples_have_these_probabilities(algo: str) -> None:
    agent, state = made(algo)
    observation = torch.tensor([0.5, -1.0, 2.0]).expand(SEEDS, 20_000, 3)
    mask = torch.tensor([True, False, True, True]).expand(SEEDS, 20_000, ACTIONS)
    noise = torch.randn(SEEDS, 20_000, *agent.acting_noise_shape, generator=torch.Generator().manual_seed(4))
    sampled = act(agent, state, observation, noise, mask)
    carry = agent.initial_carry(state, ACTIONS)
    for seed in range(SEEDS):
        shares = (sampled[seed] - FIRST).bincount(minlength=ACTIONS) / 20_000
        actions = torch.arange(FIRST, FIRST + ACTIONS).expand(SEEDS, -1)
        expected = agent.log_prob(state, observation[:, :ACTIONS], actions, carry, mask[:, :ACTIONS])[seed].exp()
        torch.testing.assert_close(shares, expected, atol=0.02, rtol=0.0)


@pytest.mark.parametrize("algo", ["bcq", "dqn", "qrdqn"])
def test_random_actions_of_epsilon_greedy_are_allowed_ones_and_equally_likely(algo: str) -> None:
    record = plugins.algorithms[algo]
    agent: Any = record.build(record.options({"epsilon_start": 1.0, "epsilon_end": 1.0}), SPEC)
    observation = torch.zeros(1, 20_000, 3)
    mask = torch.tensor([False, True, True, True]).expand(1, 20_000, ACTIONS)
    noise = torch.randn(1, 20_000, ACTIONS, generator=torch.Generator().manual_seed(6))
    action = act(agent, agent.init((0,), CPU), observation, noise, mask)
    shares = (action[0] - FIRST).bincount(minlength=ACTIONS) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3]), atol=0.02, rtol=0.0)


WIDTH, UPDATES, NEVER, HUGE = 7, 3, 4, 1e6
QUANTILES = 6
LEARNING: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("bc", {"entropy_bonus": 0.1}),
    "bc-rnn": ("bc-rnn", {"context": 5, "width": WIDTH}),
    "bc-transformer": ("bc-transformer", {"context": 3, "width": 8, "layers": 1}),
    "bcq": ("bcq", {}),
    "dagger": ("dagger", {}),
    "dt": (
        "dt",
        {"context": 3, "width": 8, "layers": 1, "target_return": 1.0, "return_scale": 1.0, "timesteps": 9},
    ),
    "dqn": ("dqn", {"conservative": 0.5}),
    "double dqn": ("dqn", {"double": True}),
    "qrdqn": ("qrdqn", {"quantiles": QUANTILES, "conservative": 0.5}),
    "double qrdqn": ("qrdqn", {"quantiles": QUANTILES, "double": True}),
    "iql": ("iql", {}),
    "ppo": ("ppo", {"epochs": 2, "entropy_bonus": 0.01}),
    "ppo with a penalty": ("ppo", {"epochs": 2, "objective": "penalty", "max_kl": 0.1}),
    "sac": ("sac", {"bc_alpha": 2.5}),
    "sac with a value network": ("sac", {"value_network": True}),
    "gail with ppo": ("gail", {"generator": "ppo"}),
    "gail with sac": ("gail", {"generator": "sac"}),
    "airl": ("airl", {"inputs": "state_action"}),
    "sqil with sac": ("sqil", {"generator": "sac"}),
    "sqil with dqn": ("sqil", {"generator": "dqn"}),
}
"""Every algorithm that knows masks. Dueling networks aren't among them: there a value is told from the others' mean."""


def learns_with_masks(algo: str) -> bool:
    record = plugins.algorithms[algo]
    return record.masks or any(plugins.algorithms[held].masks for held in record.wraps)


def test_every_algorithm_that_knows_masks_is_here() -> None:
    assert {algo for algo, _ in LEARNING.values()} == {a for a in plugins.algorithms if learns_with_masks(a)}


def never_allowed(batch: Batch) -> Batch:
    """The same without the last action: nobody took it, and it is forbidden everywhere."""
    assert batch.action_mask is not None
    action = torch.where(batch.action == FIRST + NEVER, FIRST, batch.action)
    allows = batch.action_mask | one_hot(action - FIRST, NEVER + 1).bool()
    following = batch.next_action_mask
    if following is not None:
        following = following & (torch.arange(NEVER + 1) != NEVER)
        following[..., 0] |= ~following.any(dim=-1)
    return replace(
        batch, action=action, action_mask=allows & (torch.arange(NEVER + 1) != NEVER), next_action_mask=following
    )


def without_last(name: str, tensor: Tensor) -> Tensor:
    """But for the last action's numbers: one, or one for each of its quantiles."""
    return by_action(tensor)[..., :NEVER, :] if is_by_action(tensor) else tensor


def is_by_action(tensor: Tensor) -> bool:
    return tensor.dim() > 0 and tensor.shape[-1] in (NEVER + 1, QUANTILES * (NEVER + 1))


def by_action(tensor: Tensor) -> Tensor:
    """A view [..., A, quantiles]."""
    return tensor.unflatten(-1, (NEVER + 1, -1))


@pytest.mark.parametrize("name", LEARNING)
def test_nothing_is_learned_from_what_forbidden_actions_seem_worth(name: str) -> None:
    """A huge logit or value of an action that is never allowed changes no loss, no target and no parameter."""
    algo, options = LEARNING[name]
    record, spec = plugins.algorithms[algo], discrete(3, NEVER + 1, start=FIRST)
    small = {} if "width" in options else {"hidden": (WIDTH,)}
    given = options | ({"generator_options": small} if record.wraps else small)
    trial = Trial.of(record, spec, given, (0, 5), UPDATES, None)
    agent: Any = trial.agent()
    ends = []
    for value in (0.0, HUGE):
        state = trial.start(agent)
        biases = [part for key, part in state_tensors(state).items() if key.endswith("bias")]
        last = [bias for bias in biases if is_by_action(bias)]
        assert last
        for bias in last:
            by_action(bias.detach())[..., NEVER, :] = value
        batches = [[never_allowed(batch) for batch in each] for each in trial.inputs]
        metrics = [agent.update(state, *each) for each in zip(batches, trial.noise, strict=True)]
        found = {f"{i}.{key}": part for i, each in enumerate(metrics) for key, part in each.items()}
        if record.can(Validates):
            found["validation"] = agent.validation_loss(state, batches[0][0])
        if record.can(Density) and agent.has_density:
            shown = without_time(batches[0][0])
            carry = agent.initial_carry(state, shown.action.shape[1])
            found["log_prob"] = agent.log_prob(state, shown.observation, shown.action, carry, shown.action_mask)
        ends.append(found | {key: part.detach().clone() for key, part in state_tensors(state).items()})
    for key, part in ends[0].items():
        assert part.isfinite().all(), key
        assert torch.equal(without_last(key, part), without_last(key, ends[1][key])), key


def test_a_mixture_keeps_the_masks_of_both_halves() -> None:
    generator = torch.Generator().manual_seed(3)
    own, expert = (masked(batch, SPEC, generator) for batch in random_batches(SPEC, 2, 2))
    for name in ("action_mask", "next_action_mask"):
        both = vars(half_and_half(own, expert))[name]
        assert torch.equal(both, torch.cat([vars(own)[name][:, :4], vars(expert)[name][:, :4]], dim=1))
        untold = replace(own, **{name: None})
        half = vars(half_and_half(untold, expert))[name]
        assert half[:, :4].all()
        assert torch.equal(half[:, 4:], vars(expert)[name][:, :4])
        half = vars(half_and_half(expert, untold))[name]
        assert torch.equal(half[:, :4], vars(expert)[name][:, :4])
        assert half[:, 4:].all()
        assert vars(half_and_half(untold, untold))[name] is None


def test_a_target_of_sqil_is_the_best_allowed_value() -> None:
    """Q'(s', ·) = (1, 2, 9, 4), the best one forbidden: y = 1 + 0.5 · 4 where demonstrated, 0.5 · 4 elsewhere."""
    record = plugins.algorithms["sqil"]
    agent: Any = record.build(record.options({"generator": "dqn", "generator_options": {"hidden": (8,)}}), SPEC)
    state = agent.init((0,), CPU)
    with torch.no_grad():
        state.generator.target_network.flat.zero_()
        state.generator.target_network.parts[0].layers[-1].bias.copy_(torch.tensor([1.0, 2.0, 9.0, 4.0]))
    allows = torch.tensor([True, True, False, True]).expand(1, 4, -1)
    batches = [
        replace(batch, discount=torch.full((1, 4), 0.5), action_mask=allows, next_action_mask=allows)
        for batch in random_batches(SPEC, 2, 1, 4)
    ]
    metrics = agent.update(state, batches, {})
    assert metrics["target_q"].tolist() == [[2.0, 2.0, 3.0, 3.0]]


def test_the_logit_of_airl_is_of_the_probability_among_allowed_actions() -> None:
    """Constant networks g = 3, h = 2 and even logits: 3 + 0.9 · 2 − 2 − log 1/2 where two actions are allowed."""
    record = plugins.algorithms["airl"]
    options = record.options({"hidden": (8,), "generator_options": {"hidden": (8,), "discount": 0.9}})
    agent: Any = record.build(options, SPEC)
    state = agent.init((0,), CPU)
    with torch.no_grad():
        for network, value in ((state.shaped.reward, 3.0), (state.shaped.potential, 2.0)):
            network.flat.zero_()
            network.layers[-1].bias.fill_(value)
        state.generator.actor.flat.zero_()
    (own,) = random_rollouts(SPEC, 1, 1)
    taken = one_hot(own.action - FIRST, ACTIONS).bool()
    allows = taken | taken.roll(1, dims=-1)
    own = replace(own, terminated=torch.zeros_like(own.terminated), action_mask=allows)
    _, (rewards,) = agent.learn_reward(state, [without_time(own)], [], {})
    torch.testing.assert_close(rewards, torch.full((1, 18), 3.0 + 0.9 * 2.0 - 2.0 + math.log(2.0)))


def test_the_likelihood_that_is_cloned_is_that_among_allowed_actions() -> None:
    """Even logits: −log 1/2 where two actions of four are allowed; what was done counts as allowed, be it a third."""
    agent = BC(BCConfig(hidden=(8,), entropy_bonus=0.1), SPEC)
    state = agent.init((0,), CPU)
    with torch.no_grad():
        state.policy.flat.zero_()
    allows = torch.tensor([[[True, True, False, False], [False, False, True, True]]])
    batch = replace(random_batches(SPEC, 1, 1, 2)[0], action=torch.tensor([[FIRST + 1, FIRST + 1]]), action_mask=allows)
    torch.testing.assert_close(agent.validation_loss(state, batch), torch.tensor([(math.log(2.0) + math.log(3.0)) / 2]))
    metrics = agent.update(state, [batch], {})
    torch.testing.assert_close(metrics["imitation_loss"], torch.tensor([[math.log(2.0), math.log(3.0)]]))
    torch.testing.assert_close(metrics["entropy"], torch.tensor([math.log(2.0)]))


def test_several_choices_are_cloned_among_allowed_ones() -> None:
    """Two of three and one of two are allowed, and of the latter the other one was taken: −log 1/2 − log 1/2."""
    agent = BC(BCConfig(hidden=(8,)), multi_discrete())
    state = agent.init((0,), CPU)
    with torch.no_grad():
        state.policy.flat.zero_()
    batch = replace(
        random_batches(multi_discrete(), 1, 1, 1)[0],
        action=torch.tensor([[[2, 1]]]),
        action_mask=torch.tensor([[[True, False, True, True, False]]]),
    )
    metrics = agent.update(state, [batch], {})
    torch.testing.assert_close(metrics["imitation_loss"], torch.tensor([[2.0 * math.log(2.0)]]))


def test_sac_keeps_near_an_action_that_the_mask_forbids_as_if_it_were_allowed() -> None:
    """Even logits, one action allowed and another one taken: the cross-entropy is −log 1/2."""
    agent = SAC(SACConfig(hidden=(8,), bc_alpha=1.0), SPEC)
    state = agent.init((0,), CPU)
    with torch.no_grad():
        state.actor.flat.zero_()  # type: ignore[union-attr]
    batch = replace(
        random_batches(SPEC, 1, 1, 1)[0],
        action=torch.tensor([[FIRST + 2]]),
        action_mask=torch.tensor([[[True, False, False, False]]]),
    )
    metrics = agent.update(state, [batch], {})
    torch.testing.assert_close(metrics["bc_loss"], torch.tensor([math.log(2.0)]))
