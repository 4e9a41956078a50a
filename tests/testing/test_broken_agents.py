"""Agents that break the contract in one place each: the checks must find it, and say what it is."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.bc import BC, BCConfig
from offrl.agents.dqn import DQN, DQNConfig
from offrl.agents.irl import IRL, IRLConfig
from offrl.errors import RecipeError
from offrl.testing import check_agent, learning_checks
from offrl.testing.random_data import RandomData
from offrl.types import (
    CriticOnly,
    Demonstrated,
    Density,
    EpisodesCut,
    GivesPolicy,
    GivesReward,
    Penalized,
    Scheduled,
    Spec,
    StartsFromPolicy,
    Validates,
)
from tests.agents.batches import continuous, discrete, multi_discrete, unbounded
from tests.testing.honest import Honest, HonestState, record

SPEC = continuous()


def check(agent: type[Any], **options: Any) -> None:
    check_agent(record(agent, **options), SPEC)


def test_an_agent_that_remembers_passes() -> None:
    check(Honest)


# Updates


class MixesSeeds(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        metrics = super().update(state, batches, noise)
        state.weight.lerp_(state.weight.mean(dim=0, keepdim=True), 0.01)
        return metrics


class DrawsWeightsTogether(Honest):
    def init(self, seeds: Any, device: Any) -> Any:
        state = super().init(seeds, device)
        state.weight.copy_(torch.randn(state.weight.shape, generator=torch.Generator().manual_seed(seeds[0])))
        return state


class HidesStateInItself(Honest):
    updates = 0

    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        self.updates += 1
        state.weight *= 1.0 - 0.01 * self.updates
        return super().update(state, batches, noise)


class HidesStateFromCheckpoints(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        vars(state)["hidden"] = vars(state).get("hidden", 0) + 1
        state.weight *= 1.0 - 0.01 * vars(state)["hidden"]
        return super().update(state, batches, noise)


class DrawsInPython(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        state.weight *= 1.0 - 1e-3 * random.random()
        return super().update(state, batches, noise)


class DrawsInTorch(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        state.weight += 1e-3 * torch.randn_like(state.weight)
        return super().update(state, batches, noise)


class ScalesRewards(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        batches[0].reward.mul_(0.5)
        return super().update(state, batches, noise)


class ScalesDraws(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        metrics = super().update(state, batches, noise)
        noise["blur"].mul_(0.5)
        return metrics


class ReplacesTensors(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        metrics = super().update(state, batches, noise)
        state.weight = state.weight.clone()
        return metrics


class LearnsNothing(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        return {"loss": torch.zeros(len(state.weight))}


class Diverges(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        state.weight.fill_(torch.inf)
        return {"loss": torch.zeros(len(state.weight))}


class KeepsGradients(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        return {name: value.requires_grad_() for name, value in super().update(state, batches, noise).items()}


class ReportsOneNumber(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        return {name: value.mean() for name, value in super().update(state, batches, noise).items()}


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (MixesSeeds, r"trained alone, seed 5 isn't what it is among others: 'weight' is off by up to [\d.e-]+, of"),
        (DrawsWeightsTogether, r"at the start, seed \d+ alone isn't what it is among others: 'weight'"),
        (HidesStateInItself, "the same updates must come to the same bits, but a second time, metrics differ"),
        (HidesStateFromCheckpoints, "going on from a saved state must be as if it had not been saved, but"),
        (DrawsInPython, "a second time, metrics differ: '0.loss'|a second time, metrics differ: '1.loss'"),
        (DrawsInTorch, "the same updates must come to the same bits, but a second time"),
        (ScalesRewards, "batches must stay as they are, but an update changes them: '0.0.reward'"),
        (ScalesDraws, "draws must stay as they are, but an update changes them: '0.blur'"),
        (ReplacesTensors, "'weight' is another tensor behind an update"),
        (LearnsNothing, "no update changes anything"),
        (Diverges, "'weight' of the state is no longer finite"),
        (KeepsGradients, "the metric 'loss' has a gradient"),
        (ReportsOneNumber, r"the metric 'loss' is \[\]; axis 0 must be the 3 seeds"),
    ],
)
def test_broken_updates_are_found(agent: type[Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check(agent)


class Replays:
    """A trace that comes to something else from its second call on."""

    off = 0.0

    def __init__(self, agent: Any, state: Any) -> None:
        self.agent, self.state, self.calls = agent, state, 0

    def update(self, batches: Any, noise: Any) -> Any:
        self.calls += 1
        metrics = self.agent.update(self.state, batches, noise)
        self.state.weight += self.off * (self.calls > 1)
        return metrics

    def explain(self) -> str:
        return "everything is replayed"


class Misses(Replays):
    off = 1e-4


class WeighsByReward(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        metrics = super().update(state, batches, noise)
        state.weight += 0.01 * batches[0].reward.mean(dim=1)[:, None, None]
        return metrics


def test_rewards_that_are_read_in_silence_are_found() -> None:
    check(Honest, reads_rewards=False)
    check(WeighsByReward)
    with pytest.raises(
        AssertionError, match="the record says that no rewards are read, but with others: 'weight' is off"
    ):
        check(WeighsByReward, reads_rewards=False)


def test_traces_are_compared_with_plain_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_checks, "Traced", Replays)
    check(Honest)
    monkeypatch.setattr(learning_checks, "Traced", Misses)
    with pytest.raises(AssertionError, match="traced, update 1 comes to another state: 'weight' is off by up to"):
        check(Honest)


class ReadsAValue(Honest):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        metrics = super().update(state, batches, noise)
        assert float(state.weight.sum()) < 1e9
        return metrics


def test_updates_that_cannot_be_replayed_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="can't be replayed"):
        check(ReadsAValue)


# Acting


class LooksAtOtherRows(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        return super().act(state, observation - observation.mean(dim=1, keepdim=True), carry, noise, action_mask)


class RemembersOtherRows(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, seen = super().act(state, observation, carry, noise, action_mask)
        return action, seen | {"sum": seen["sum"] + 0.01 * seen["sum"].mean(dim=1, keepdim=True)}


class LooksAtOtherSeeds(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        return super().act(state, observation - observation.mean(dim=0, keepdim=True), carry, noise, action_mask)


class ChangesObservations(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, seen = super().act(state, observation, carry, noise, action_mask)
        observation.clamp_(-0.1, 0.1)
        return action, seen


class RemembersInPlace(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, seen = super().act(state, observation, carry, noise, action_mask)
        for name, tensor in carry.items():
            tensor.copy_(seen[name])
        return action, carry


class IsNeverGreedy(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, seen = super().act(state, observation, carry, noise, action_mask)
        return action * random.random(), seen


class ExploresByItself(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, seen = super().act(state, observation, carry, noise, action_mask)
        return action if noise is None else action * random.random(), seen


class LearnsWhileActing(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        state.updates += 1
        return super().act(state, observation, carry, noise, action_mask)


class RemembersInItself(Honest):
    steps = 0

    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        self.steps += 1
        action, seen = super().act(state, observation, carry, noise, action_mask)
        return action / self.steps, seen


class RemembersLessAndLess(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, seen = super().act(state, observation, carry, noise, action_mask)
        return action, {"sum": seen["sum"], "steps": seen["steps"].float()}


class RemembersRowsFirst(Honest):
    def initial_carry(self, state: Any, count: int) -> Any:
        return {name: tensor.transpose(0, 1) for name, tensor in super().initial_carry(state, 2 * count).items()}


class ActsInDouble(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, seen = super().act(state, observation, carry, noise, action_mask)
        return action.double(), seen


class ActsBeyondBounds(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, seen = super().act(state, observation, carry, noise, action_mask)
        return 3.0 * action, seen


class LeavesPyTorch(Honest):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, seen = super().act(state, observation, carry, noise, action_mask)
        norm = torch.from_numpy(np.linalg.norm(observation.numpy(), axis=-1, keepdims=True))
        return action / (1.0 + norm), seen


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (LooksAtOtherRows, "row 0 alone, in step 0, is acted on otherwise than among others"),
        (RemembersOtherRows, "row 0 alone, in step 0, is remembered otherwise than among others: 'sum'"),
        (LooksAtOtherSeeds, "trained alone, seed 5 acts otherwise than among others"),
        (ChangesObservations, "acting must leave what it is given as it is, but: 'observation'"),
        (RemembersInPlace, "acting must leave what it is given as it is, but: 'carry.s[a-z]+'"),
        (IsNeverGreedy, "greedy acting must be deterministic, but a second time the action"),
        (ExploresByItself, "exploring with the same draws from the same state"),
        (LearnsWhileActing, "greedy acting must leave the state as it is, but: 'updates'"),
        (RemembersInItself, "greedy acting must be deterministic"),
        (RemembersLessAndLess, "acting remembers 'steps' as torch.float32.*at the start it is torch.int64"),
        (RemembersRowsFirst, "the initial carry 'sum' is .*; its first axes must be 3 seeds and 3 rows"),
        (ActsInDouble, r"an action is torch.float64 \[3, 3, 2\], not torch.float32"),
        (ActsBeyondBounds, r"greedy actions must lie in \[-1, 1\]"),
        (LeavesPyTorch, "exported, acting on"),
    ],
)
def test_broken_acting_is_found(agent: type[Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check(agent)


class IgnoresMasks(DQN):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        return super().act(state, observation, carry, noise)


class NumbersFromZero(DQN):
    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        action, carry = super().act(state, observation, carry, noise, action_mask)
        return action - self.first_action, carry


class KeepsErrors(DQN):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        metrics = super().update(state, batches, noise)
        metrics.pop("td_error", None)
        return metrics


class WeighsNothing(DQN):
    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        metrics = super().update(state, batches, noise)
        state.network.flat.mul_(0.5 if batches[0].weight is not None else 1.0)
        return metrics


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (IgnoresMasks, "actions taken greedily are forbidden"),
        (NumbersFromZero, r"actions are outside of Discrete\(4, start=3\)"),
        (KeepsErrors, "an update must tell 'td_error'"),
        (WeighsNothing, "weights of 1 must change nothing, but the state"),
    ],
)
def test_broken_choices_are_found(agent: type[Any], words: str) -> None:
    algorithm = Algorithm(DQNConfig, agent, feeds=("replay",), actions=("discrete",), masks=True, td_errors=True)
    with pytest.raises(AssertionError, match=words):
        check_agent(algorithm, discrete(start=3), {"hidden": (8,)})


# What records say that agents can


class Unlikely(BC):
    def log_prob(self, state: Any, observation: Any, action: Any, carry: Any, action_mask: Any = None) -> Any:
        return super().log_prob(state, observation, action, carry, action_mask) - 0.5


class LikesForbidden(BC):
    def log_prob(self, state: Any, observation: Any, action: Any, carry: Any, action_mask: Any = None) -> Any:
        return super().log_prob(state, observation, action, carry)


class Mislabeled(BC):
    """Probabilities that add up to 1, of other actions."""

    def log_prob(self, state: Any, observation: Any, action: Any, carry: Any, action_mask: Any = None) -> Any:
        space: Any = self.spec.action_space
        turned = (action - space.start + 1) % space.n + space.start
        return super().log_prob(state, observation, turned, carry, action_mask)


class SumsOverSeeds(BC):
    def validation_loss(self, state: Any, batch: Any) -> Any:
        return super().validation_loss(state, batch).sum()


class ValidatesByLearning(BC):
    def validation_loss(self, state: Any, batch: Any) -> Any:
        state.l1 += 1.0
        return super().validation_loss(state, batch)


class Unpunished(BC):
    def set_penalty(self, state: Any, name: str, values: Any) -> None:
        return


class Punished(BC):
    def set_penalty(self, state: Any, name: str, values: Any) -> None:
        super().set_penalty(state, name, values.mean().expand(len(values)))


class OfNoKind(BC):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.kind: Any = "linear" if self.kind == "deterministic" else self.kind

    def _regression(self, output: Any) -> Any:
        return output.tanh()

    def imitation_loss(self, output: Any, batch: Any) -> Any:
        return (self._regression(output) - batch.action).square().sum(dim=-1)

    def act(self, state: Any, observation: Any, carry: Any, noise: Any = None, action_mask: Any = None) -> Any:
        network = self.policy_network(state)
        return self._regression(network(network.encoder(observation))), carry


PROVIDED = (Density, Validates, Penalized, GivesPolicy)
SQUASHED: dict[str, Any] = {"policy": "squashed_gaussian"}


@pytest.mark.parametrize(
    ("agent", "spec", "options", "words"),
    [
        (Unlikely, discrete(), {}, "the probabilities of all actions must add up to 1"),
        (Unlikely, multi_discrete(), {}, "the probabilities of all actions must add up to 1"),
        (Unlikely, continuous(), SQUASHED, "log_prob must be the density of sampled actions"),
        (Unlikely, unbounded(), {"policy": "gaussian"}, "log_prob must be the density of sampled actions"),
        (LikesForbidden, discrete(), {}, "forbidden actions have probabilities up to"),
        (Mislabeled, discrete(), {}, "sampled actions must be as frequent as they are probable"),
        (SumsOverSeeds, continuous(), {}, r"validation_loss is \[\], not \[3\]"),
        (ValidatesByLearning, continuous(), {}, "validation_loss must change nothing, but the state: 'l1'"),
        (Unpunished, continuous(), {}, r"set_penalty\(…, 'l1', …\) has no effect"),
        (Punished, continuous(), {}, "a coefficient 'l1' of one seed must not move the others"),
        (OfNoKind, continuous(), {}, "kind is 'linear'"),
    ],
)
def test_broken_promises_of_policies_are_found(agent: type[Any], spec: Spec, options: Any, words: str) -> None:
    algorithm = Algorithm(BCConfig, agent, feeds=("dataset",), provides=PROVIDED, masks=True)
    with pytest.raises(AssertionError, match=words):
        check_agent(algorithm, spec, {"hidden": (8,), "learning_rate": 0.02} | options)


class MovesThePolicy(Honest):
    def update_critic(self, state: Any, batches: Any, noise: Any) -> Any:
        return self.update(state, batches, noise)


class LeavesCritics(Honest):
    def update_critic(self, state: Any, batches: Any, noise: Any) -> Any:
        return {}


class EndsAtOnce(Honest):
    def ended_schedule(self, state: Any) -> Any:
        return 7


class ForgetsItself(Honest):
    def episodes_cut(self, state: Any) -> None:
        state.updates = None


class IgnoresDemonstrations(Honest):
    demonstration_batches = 1

    def update(self, state: Any, batches: Any, noise: Any) -> Any:
        return super().update(state, batches[:1], noise)


class AdoptsTheUnknown(Honest):
    adopted_options = ("widths",)

    def adopt_policy(self, state: Any, policy: Any, kind: str) -> None:
        return


@pytest.mark.parametrize(
    ("agent", "provides", "words"),
    [
        (MovesThePolicy, CriticOnly, "update_critic must leave acting alone, but the action"),
        (LeavesCritics, CriticOnly, "update_critic changes nothing"),
        (EndsAtOnce, Scheduled, "at the start, ended_schedule gives 7, not 0"),
        (ForgetsItself, EpisodesCut, "the state|changes what is saved"),
        (IgnoresDemonstrations, Demonstrated, "the same whatever the demonstrations show"),
        (AdoptsTheUnknown, StartsFromPolicy, "adopted_options names widths"),
    ],
)
def test_broken_promises_of_learners_are_found(agent: type[Any], provides: type[Any], words: str) -> None:
    with pytest.raises(Exception, match=words) as raised:
        check(agent, provides=(provides,))
    assert raised.type.__name__ in ("AssertionError", "RunError")


class Adopter(BC):
    """Another cloner that can start where the first one ended."""

    adopted_options = ("hidden",)

    def adopt_policy(self, state: Any, policy: Any, kind: str) -> None:
        if kind != self.kind:
            raise RecipeError(f"a policy of this kind can't start as a {kind} one")
        state.policy.flat.copy_(policy.flat)


class HalfAdopter(Adopter):
    def adopt_policy(self, state: Any, policy: Any, kind: str) -> None:
        state.policy.flat.lerp_(policy.flat, 0.5)


def test_adopted_policies_must_be_acted_by() -> None:
    whole, half = (
        Algorithm(BCConfig, agent, feeds=("dataset",), provides=(StartsFromPolicy,)) for agent in (Adopter, HalfAdopter)
    )
    check_agent(whole, SPEC, {"hidden": (8,)})
    with pytest.raises(AssertionError, match="behind adopt_policy of a deterministic policy, the action"):
        check_agent(half, SPEC, {"hidden": (8,)})


class RewardsInDouble(IRL):
    def reward(self, state: Any, batch: Any) -> Tensor:
        return super().reward(state, batch).double()


class RewardsByRank(IRL):
    def reward(self, state: Any, batch: Any) -> Tensor:
        reward = super().reward(state, batch)
        return reward - reward.mean(dim=1, keepdim=True)


class FavorsNobodyKnowsWhat(IRL):
    length_bias: Any = "long"


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (RewardsInDouble, "reward is torch.float64"),
        (RewardsByRank, "the reward of a transition alone"),
        (FavorsNobodyKnowsWhat, "length_bias is 'long'"),
    ],
)
def test_broken_rewards_are_found(agent: type[Any], words: str) -> None:
    algorithm = Algorithm(IRLConfig, agent, feeds=("table",), provides=(GivesReward,))
    with pytest.raises(AssertionError, match=words):
        check_agent(algorithm, Spec(gym.spaces.Discrete(5), gym.spaces.Discrete(3)))


# How it is asked


def test_what_can_not_be_made_must_be_given() -> None:
    algorithm = record(Honest, feeds=("dreams",))
    with pytest.raises(AssertionError, match=r"no random batches are known of the feeds dreams: give some as batches="):
        check_agent(algorithm, SPEC)
    generator = torch.Generator().manual_seed(3)
    batch = RandomData(SPEC, 3).transitions(3, 6, 0.9)
    batches = [[replace(batch, action=torch.rand(3, 6, 2, generator=generator))] for _ in range(2)]
    check_agent(algorithm, SPEC, batches=batches, updates=2)
    with pytest.raises(AssertionError, match="there are batches for 2 updates, and 3 are to be made"):
        check_agent(algorithm, SPEC, batches=batches, updates=3)


@pytest.mark.parametrize(("options", "words"), [({"seeds": (3, 3)}, "two different"), ({"updates": 1}, "at least two")])
def test_too_little_to_compare_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_agent(record(Honest), SPEC, **options)


def test_states_are_dataclasses_of_what_can_be_saved() -> None:
    class KeepsAFunction(Honest):
        def init(self, seeds: Any, device: Any) -> Any:
            @dataclass
            class State(HonestState):
                function: Any = len

            state = super().init(seeds, device)
            return State(state.weight, state.updates)

    with pytest.raises(Exception, match="'function' is a builtin_function_or_method, which a checkpoint can't hold"):
        check(KeepsAFunction)


def test_windows_have_a_length() -> None:
    with pytest.raises(AssertionError, match="the feed 'windows' goes by an option 'context', and it has none"):
        check_agent(record(Honest, feeds=("windows",)), SPEC)
