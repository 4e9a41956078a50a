"""Checks of the optional Protocols that a record names: whether what they promise is so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from offrl import plugins
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.ops.minibatches import without_time
from offrl.ops.trees import tree_leaves, tree_map
from offrl.testing.comparing import copy_of, require, require_close, require_same, values_of
from offrl.testing.random_data import chosen, every_action
from offrl.testing.trial import CPU, Trial, act, rows_of
from offrl.types import (
    Agent,
    Batch,
    CriticOnly,
    Demonstrated,
    Density,
    EpisodesCut,
    GivesPolicy,
    GivesReward,
    Observation,
    ObservesReward,
    Penalized,
    Scheduled,
    StartsFromPolicy,
    Validates,
)

SAMPLES = 4_000
SHARE_TOLERANCE, VOLUME_TOLERANCE = 0.04, 0.15
"""How far frequencies of sampled actions may be from probabilities, and volumes from those that densities imply."""
MOST_ACTIONS, MOST_COMPONENTS = 64, 4
"""Up to so many actions are listed; so many components of an action give densities that samples can check."""
KINDS = ("deterministic", "gaussian", "squashed_gaussian", "categorical")
BIASES = ("", "positive", "negative", "logit")


def check_protocols(trial: Trial) -> None:
    """Every optional Protocol that the record names, and TD errors where it says that updates tell them."""
    for protocol, check in CHECKS.items():
        if trial.algorithm.can(protocol):
            check(trial, trial.agent())
    if trial.algorithm.td_errors:
        check_td_errors(trial, trial.agent())


def check_density(trial: Trial, agent: Any) -> None:
    """Log-probabilities are [S, N], of masked actions too; they add up to 1, and are those of sampled actions."""
    require(isinstance(agent.has_density, bool), f"has_density is {agent.has_density!r}, neither True nor False")
    if not agent.has_density:
        return
    state, data, seeds = trial.trained(agent), trial.data(), len(trial.seeds)
    observation, action = data.observation(seeds, 3), data.action(seeds, 3)
    log_prob = agent.log_prob(state, observation, action, agent.initial_carry(state, 3))
    _require_result(log_prob, (seeds, 3), "log_prob")
    one = tree_map(lambda part: part[:, :1], observation)
    if trial.spec.is_continuous:
        if trial.spec.action_dim <= MOST_COMPONENTS:
            _check_volume(trial, agent, state, one)
        return
    actions = every_action(trial.spec)
    if len(actions) <= MOST_ACTIONS:
        masks = [None, *([data.mask(data.action(seeds, 1))] if trial.learner.masks else [])]
        for mask in masks:
            _check_shares(trial, agent, state, one, actions, mask)


def _check_shares(trial: Trial, agent: Any, state: Any, one: Observation, actions: Tensor, mask: Tensor | None) -> None:
    """All actions' probabilities for one observation of each seed, against those of samples."""
    seeds, count = len(trial.seeds), len(actions)
    repeated = _repeated(one, count)
    shown = None if mask is None else mask.expand(-1, count, -1)
    among = "" if mask is None else " among the allowed ones"
    listed = actions.expand(seeds, *actions.shape)
    carry = agent.initial_carry(state, count)
    probability = agent.log_prob(state, repeated, listed, carry, shown).exp()
    total = probability.sum(dim=1)
    require_close(total, torch.ones_like(total), f"the probabilities of all actions{among} must add up to 1, but this")
    if shown is not None:
        forbidden = probability[(chosen(trial.spec, listed) & ~shown).any(dim=-1)]
        require(not forbidden.any(), f"forbidden actions have probabilities up to {float(forbidden.amax()):.3g}")
    noise = trial.data().normal(seeds, SAMPLES, *agent.acting_noise_shape)
    drawn, _ = act(
        agent, state, _repeated(one, SAMPLES), noise=noise, mask=None if mask is None else mask.expand(-1, SAMPLES, -1)
    )
    same = drawn.unsqueeze(2) == listed.unsqueeze(1)
    shares = (same if same.dim() == 3 else same.flatten(3).all(dim=-1)).float().mean(dim=1)
    what = f"sampled actions{among} must be as frequent as they are probable, but how frequent they are"
    require_close(shares, probability.to(shares.dtype), what, rtol=0.0, atol=SHARE_TOLERANCE)


def _check_volume(trial: Trial, agent: Any, state: Any, one: Observation) -> None:
    """∫_R da = E[1_R(a) / π(a)] over a box R around the middle of the samples."""
    seeds = len(trial.seeds)
    noise = trial.data().normal(seeds, SAMPLES, *agent.acting_noise_shape)
    repeated, carry = _repeated(one, SAMPLES), agent.initial_carry(state, SAMPLES)
    drawn, _ = act(agent, state, repeated, noise=noise)
    log_prob = agent.log_prob(state, repeated, drawn, carry)
    low, high = (drawn.quantile(share, dim=1, keepdim=True) for share in (0.1, 0.9))
    inside = ((drawn >= low) & (drawn <= high)).all(dim=-1)
    volume = (torch.where(inside, (-log_prob).exp(), 0.0)).mean(dim=1)
    expected = (high - low).squeeze(1).prod(dim=-1)
    what = "log_prob must be the density of sampled actions, but the volume that it implies for a box of them"
    require_close(volume, expected, what, rtol=VOLUME_TOLERANCE, atol=0.0)


def check_critic_only(trial: Trial, agent: Any) -> None:
    """`update_critic` changes the state, and leaves acting alone."""
    state, data, seeds = trial.start(agent), trial.data(), len(trial.seeds)
    observation, noise = data.observation(seeds, 5), data.normal(seeds, 5, *agent.acting_noise_shape)
    before, greedy = values_of(state), act(agent, state, observation)[0]
    agent.update_critic(state, trial.inputs[0], trial.noise[0])
    after = values_of(state)
    require(any(not torch.equal(before[name], after[name]) for name in before), "update_critic changes nothing")
    other = trial.start(agent)
    require_same(act(agent, state, observation)[0], greedy, "update_critic must leave acting alone, but the action")
    explored, expected = (act(agent, each, observation, noise=noise)[0] for each in (state, other))
    require_same(explored, expected, "update_critic must leave acting alone, but the exploring action")


def check_validates(trial: Trial, agent: Any) -> None:
    """`validation_loss` is [S], without a gradient, and changes nothing."""
    state = trial.trained(agent)
    before, batch = values_of(state), trial.inputs[0][0]
    losses = [agent.validation_loss(state, batch) for _ in range(2)]
    _require_result(losses[0], (len(trial.seeds),), "validation_loss")
    require_same(losses[1], losses[0], "validation_loss must be deterministic, but a second time it")
    require_same(values_of(state), before, "validation_loss must change nothing, but the state")


def check_penalized(trial: Trial, agent: Any) -> None:
    """A coefficient of one seed's own counts for that seed and no other."""
    require(bool(agent.penalties), "penalties names none")
    for name in agent.penalties:
        own = dataclasses.replace(trial, options=dataclasses.replace(trial.options, **{name: 0.5}))
        states = []
        for last in (0.5, 0.0):
            penalized: Any = own.agent()
            state = own.start(penalized)
            values = torch.full((len(trial.seeds),), 0.5)
            values[-1] = last
            penalized.set_penalty(state, name, values)
            own.update(penalized, state, 0)
            states.append(values_of(state))
        with_it, without = states
        parts = [tensor for tensor in with_it if with_it[tensor].dim()]
        for tensor in parts:
            require_same(
                {tensor: without[tensor][:-1]},
                {tensor: with_it[tensor][:-1]},
                f"a coefficient '{name}' of one seed must not move the others, but it does:",
            )
        moved = [part for part in parts if not torch.equal(with_it[part][-1], without[part][-1])]
        require(len(moved) > 1, f"set_penalty(…, '{name}', …) has no effect on what is learned")


def check_gives_policy(trial: Trial, agent: Any) -> None:
    """The policy network is a module, of a known kind."""
    require(agent.kind in KINDS, f"kind is {agent.kind!r}, none of {', '.join(KINDS)}")
    network = agent.policy_network(trial.start(agent))
    require(isinstance(network, nn.Module), f"policy_network gives a {type(network).__name__}, not a module")


def check_starts_from_policy(trial: Trial, agent: Any) -> None:
    """Behind `adopt_policy`, greedy actions are those of the cloned policy, if it is of a kind that is not refused."""
    record, options = plugins.algorithms["bc"], trial.algorithm.learner_options(trial.options)
    learner: Any = trial.learner.build(options, trial.spec)
    unknown = sorted({*learner.adopted_options} - vars(options).keys())
    require(not unknown, f"adopted_options names {', '.join(unknown)}, which isn't among the options")
    shared = {name: vars(options)[name] for name in learner.adopted_options}
    observation = trial.data().observation(len(trial.seeds), 5)
    for kind in KINDS:
        try:
            cloner: Any = record.build(record.options(shared | {"policy": kind}), trial.spec)
            # Of other seeds: the same ones might have drawn the same weights.
            source = cloner.init([seed + 1 for seed in trial.seeds], CPU)
            state = trial.start(agent)
            agent.adopt_policy(state, cloner.policy_network(source), kind)
        except (RecipeError, SpaceMismatchError):
            continue
        expected, _ = act(cloner, source, observation)
        require_close(
            act(agent, state, observation)[0], expected, f"behind adopt_policy of a {kind} policy, the action"
        )


def check_scheduled(trial: Trial, agent: Any) -> None:
    """A schedule hasn't ended before it began."""
    ended = agent.ended_schedule(trial.start(agent))
    require(type(ended) is int and ended == 0, f"at the start, ended_schedule gives {ended!r}, not 0")


def check_episodes_cut(trial: Trial, agent: Any) -> None:
    """What is saved of the state goes on behind a cut."""
    state = trial.start(agent)
    for number in range(len(trial.inputs)):
        trial.update(agent, state, number)
        before = values_of(state)
        agent.episodes_cut(state)
        require(before.keys() == values_of(state).keys(), "episodes_cut changes what is saved of the state")


def check_observes_reward(trial: Trial, agent: Any) -> None:
    """What is remembered changes by rewards, row by row, and keeps its form."""
    state, data, seeds = trial.trained(agent), trial.data(), len(trial.seeds)
    observation, reward = data.observation(seeds, 3), 1.0 + data.uniform(seeds, 3)
    _, carry = act(agent, state, observation)
    before = copy_of(carry)
    observed = agent.observe_reward(carry, reward)
    require_same(carry, before, "observe_reward must leave what it is given as it is, but")
    ours, theirs = dict(tree_leaves(observed)), dict(tree_leaves(carry))
    require(
        {name: (part.dtype, part.shape) for name, part in ours.items()}
        == {name: (part.dtype, part.shape) for name, part in theirs.items()},
        "observe_reward must give what acting remembers, of the same form",
    )
    require(any(not torch.equal(ours[name], theirs[name]) for name in ours), "observe_reward changes nothing")
    for row in range(3):
        part = slice(row, row + 1)
        alone = agent.observe_reward(rows_of(carry, part), reward[:, part])
        require_close(alone, rows_of(observed, part), f"row {row} alone takes in its reward otherwise")


def check_gives_reward(trial: Trial, agent: Any) -> None:
    """Rewards are float32 [S, B], without a gradient, and judging changes nothing."""
    require(agent.length_bias in BIASES, f"length_bias is {agent.length_bias!r}, none of {', '.join(BIASES[1:])}, ''")
    state, seeds = trial.trained(agent), len(trial.seeds)
    before, batch = values_of(state), trial.data().transitions(seeds, 7, agent.discount)
    reward = agent.reward(state, batch)
    _require_result(reward, (seeds, 7), "reward")
    require(reward.dtype == torch.float32, f"reward is {reward.dtype}, not float32")
    require_same(values_of(state), before, "reward must change nothing, but the state")
    first = tree_map(lambda part: part[:, :1], batch)
    require_close(agent.reward(state, first), reward[:, :1], "the reward of a transition alone")


def check_demonstrated(trial: Trial, agent: Any) -> None:
    """An update learns from the demonstrations behind its own batches."""
    count = agent.demonstration_batches
    require(type(count) is int and count > 0, f"demonstration_batches is {count!r}, not a count")
    other = [list(batches) for batches in trial.inputs]
    data = trial.data()
    shown = other[0][-count:]
    other[0][-count:] = [
        data.transitions(len(trial.seeds), part.reward.shape[1], agent.discount, masks=part.action_mask is not None)
        for part in map(without_time, shown)
    ]
    states = []
    for each in (trial, dataclasses.replace(trial, inputs=other)):
        state = each.start(agent)
        each.update(agent, state, 0)
        states.append(values_of(state))
    same = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    require(not same, "an update comes to the same whatever the demonstrations show")


def check_td_errors(trial: Trial, agent: Agent[Any, Any]) -> None:
    """Where batches carry weights, an update tells TD errors [C, S, B]; weights of 1 change nothing."""
    plain, state = trial.start(agent), trial.start(agent)
    weighted = [_weighted(batch) for batch in trial.inputs[0]]
    metrics = agent.update(state, weighted, trial.noise[0])
    require("td_error" in metrics, "with importance weights, an update must tell 'td_error', and doesn't")
    errors, count = metrics["td_error"], agent.batches_per_update
    expected = (count, *trial.inputs[0][0].reward.shape)
    require(tuple(errors.shape) == expected, f"'td_error' is {list(errors.shape)}, not {list(expected)}")
    require(bool((errors >= 0.0).all()), "'td_error' is an absolute value, and some are negative")
    agent.update(plain, trial.inputs[0], trial.noise[0])
    require_close(values_of(state), values_of(plain), "weights of 1 must change nothing, but the state")


CHECKS: Mapping[type[Any], Callable[[Trial, Any], None]] = {
    Density: check_density,
    CriticOnly: check_critic_only,
    Validates: check_validates,
    Penalized: check_penalized,
    GivesPolicy: check_gives_policy,
    StartsFromPolicy: check_starts_from_policy,
    Scheduled: check_scheduled,
    EpisodesCut: check_episodes_cut,
    ObservesReward: check_observes_reward,
    GivesReward: check_gives_reward,
    Demonstrated: check_demonstrated,
}
"""What each optional Protocol promises."""


def _require_result(value: Tensor, shape: tuple[int, ...], name: str) -> None:
    require(tuple(value.shape) == shape, f"{name} is {list(value.shape)}, not {list(shape)}")
    require(not value.requires_grad, f"{name} has a gradient")
    require(bool(value.isfinite().all()), f"{name} is not finite")


def _repeated(one: Observation, count: int) -> Observation:
    """[S, 1, …] to [S, count, …]."""
    repeated: Observation = tree_map(lambda part: part.expand(-1, count, *part.shape[2:]), one)
    return repeated


def _weighted(batch: Any) -> Any:
    return dataclasses.replace(batch, weight=torch.ones_like(batch.reward)) if isinstance(batch, Batch) else batch
