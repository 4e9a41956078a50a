"""GAIL's discriminator against a plain single-seed implementation and hand-computed values; what its generator gets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offrl.agents.bc import BC, BCConfig
from offrl.agents.gail import GAIL, GAILConfig, GAILState
from offrl.agents.ppo import PPO, PPOConfig
from offrl.agents.sac import SAC, SACConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.errors import RecipeError
from offrl.nn.state import restore_state, state_tensors
from offrl.types import Agent, Batch, Noise, Spec
from tests.agents.batches import (
    CPU,
    act,
    continuous,
    discrete,
    multi_discrete,
    no_values_read,
    noise_of_seed,
    of_seed,
    random_batches,
    random_noise,
    random_rollouts,
)
from tests.nn.plain import assert_member_equals, copy_of_member

UPDATES, EXPERTS = 10, 6
OPTIONS = TD3Config(hidden=(8,), discount=0.9)
SMALL = GAILConfig(hidden=(12, 8), learning_rate=1e-2, generator_options=OPTIONS)


def small(**options: Any) -> GAILConfig:
    return dataclasses.replace(SMALL, **options)


VARIANTS = {
    "absorbing, penalty, normalized": (small(updates=2), continuous()),
    "transitions": (small(inputs="transition", reward="positive", label_smoothing=0.1), continuous()),
    "a far absorbing state": (small(absorbing_indicator=2.5), continuous()),
    "transitions to one": (small(inputs="transition", absorbing_indicator=2.5), continuous()),
    "tanh, entropy": (small(activation="tanh", entropy_bonus=0.05, absorbing=False), continuous()),
    "plain states": (small(inputs="state", gradient_penalty=0.0, normalize_input=False, absorbing=False), continuous()),
    "spectral norm": (small(spectral_norm=True, gradient_penalty=0.0, reward="negative"), continuous()),
    "discrete actions": (small(updates=3), discrete(start=2)),
    "several choices": (small(), multi_discrete()),
}
variants = pytest.mark.parametrize(("config", "spec"), VARIANTS.values(), ids=VARIANTS)


@dataclass
class Nothing:
    """The state of an agent that learns nothing."""

    count: Tensor


class Recorder:
    """A generator that keeps what it is given."""

    acting_noise_shape: tuple[int, ...] = (2,)
    discount = 0.9

    def __init__(self, spec: Spec, batches_per_update: int = 1) -> None:
        self.spec, self.batches_per_update = spec, batches_per_update
        self.given: list[Batch] = []
        self.draws: list[Noise] = []

    def init(self, seeds: Sequence[int], device: torch.device) -> Nothing:
        return Nothing(torch.zeros(len(seeds)))

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        return {"rows": (batch_size, 3)}

    def update(self, state: Nothing, batches: Sequence[Batch], noise: Noise) -> dict[str, Tensor]:
        self.given += batches
        self.draws.append(noise)
        return {"own_loss": state.count}

    def initial_carry(self, state: Nothing, count: int) -> Tensor:
        return state.count.unsqueeze(1).expand(-1, count)

    def act(
        self,
        state: Nothing,
        observation: Any,
        carry: Tensor,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return torch.zeros(*observation.shape[:2], 2) + carry.unsqueeze(-1), carry + 1.0


class PlainDiscriminator:
    """One seed's discriminator in plain PyTorch; the absorbing state's steps are rows of their own."""

    def __init__(self, config: GAILConfig, spec: Spec, state: GAILState, seed: int) -> None:
        self.config, self.spec = config, spec
        self.net = copy_of_member(state.discriminator.network, seed, config.activation)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.learning_rate)
        self.seen: list[Tensor] = []
        self.directions = [
            state.discriminator.get_buffer(f"direction_{depth}")[seed].clone()
            for depth in range(len(config.hidden) + 1)
            if config.spectral_norm
        ]

    def observe(self, observation: Tensor) -> Tensor:
        if not self.config.normalize_input:
            return observation
        data = torch.cat(self.seen).double()
        return ((observation - data.mean(0)) / data.std(0, correction=0)).clamp(-10.0, 10.0).float()

    def actions(self, action: Tensor) -> Tensor:
        if self.spec.is_continuous:
            return action
        if action.dim() == 1:
            return nn.functional.one_hot(action - self.spec.action_space.start, self.spec.action_dim).float()
        sizes = self.spec.action_space.nvec
        return torch.cat([nn.functional.one_hot(action[:, i], int(n)).float() for i, n in enumerate(sizes)], dim=1)

    def inputs(self, observation: Tensor, action: Tensor, following: Tensor, terminated: Tensor) -> Tensor:
        c = self.config
        parts = [self.observe(observation)]
        if c.inputs == "state_action":
            parts.append(self.actions(action))
        if c.inputs == "transition":
            parts.append(self.observe(following))
        if c.absorbing:
            parts.append(torch.zeros(len(observation), 1))
            if c.inputs == "transition":
                parts.append(c.absorbing_indicator * terminated[:, None])
        return torch.cat(parts, dim=1)

    def absorbed(self, width: int) -> Tensor:
        row = torch.zeros(1, width)
        row[0, -2 if self.config.inputs == "transition" else -1 :] = self.config.absorbing_indicator
        return row

    def logit(self, x: Tensor) -> Tensor:
        if not self.config.spectral_norm:
            return self.net(x)[:, 0]
        linears = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        for depth, (layer, u) in enumerate(zip(linears, self.directions, strict=True)):
            with torch.no_grad():
                v = layer.weight.T @ u / (layer.weight.T @ u).norm()
            x = x @ (layer.weight / (u @ layer.weight @ v)).T + layer.bias
            if depth < len(linears) - 1:
                x = torch.relu(x)
        return x[:, 0]

    def iterate(self) -> None:
        linears = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for i, u in enumerate(self.directions):
                weight = linears[i].weight
                v = weight.T @ u / (weight.T @ u).norm()
                self.directions[i] = weight @ v / (weight @ v).norm()

    def side(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """All rows, those of the absorbing state behind the others; and the others with ends replaced."""
        x, terminated = self.inputs(*batch), batch[3]
        if not self.config.absorbing:
            return x, x
        absorbed = self.absorbed(x.shape[1])
        behind = absorbed.repeat(int(terminated.sum()), 1)
        return torch.cat([x, behind]), torch.where(terminated[:, None] > 0.0, absorbed, x)

    def step(self, expert: tuple[Tensor, ...], generated: tuple[Tensor, ...], mixture: Tensor) -> None:
        c, bce = self.config, nn.functional.binary_cross_entropy_with_logits
        (x, x_ends), (y, y_ends) = self.side(expert), self.side(generated)
        self.iterate()
        theirs, mine = self.logit(x), self.logit(y)
        loss = bce(theirs, torch.full_like(theirs, 1.0 - c.label_smoothing)) + bce(mine, torch.zeros_like(mine))
        if c.entropy_bonus:
            both = torch.cat([theirs[: len(x_ends)], mine[: len(y_ends)]])
            loss = loss - c.entropy_bonus * torch.distributions.Bernoulli(logits=both).entropy().mean()
        if c.gradient_penalty:
            share = torch.special.ndtr(mixture)[:, None]
            between = ((1.0 - share) * x_ends + share * y_ends).requires_grad_()
            (slope,) = torch.autograd.grad(self.logit(between).sum(), between, create_graph=True)
            loss = loss + c.gradient_penalty * ((slope.norm(dim=1) - 1.0) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def update(self, own: list[Batch], experts: list[Batch], noise: Noise) -> list[Tensor]:
        """The rewards of the own batches afterwards."""
        mine, theirs = ([as_rows(batch) for batch in batches] for batches in (own, experts))
        for batch in (*mine, *theirs):
            self.seen += [batch[0], batch[2]] if self.config.inputs == "transition" else [batch[0]]
        for i, expert in enumerate(theirs):
            batch = mine[i % len(mine)]
            if len(batch[0]) > EXPERTS:
                rows = noise["rows"][0, i].argsort()[:EXPERTS]
                batch = tuple(part[rows] for part in batch)
            mixture = noise["mixture"][0, i, :EXPERTS] if "mixture" in noise else torch.zeros(EXPERTS)
            self.step(expert, batch, mixture)
        return [self.reward(batch) for batch in mine]

    def reward(self, batch: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            x = self.inputs(*batch)
            reward = self.form(self.logit(x))
            if self.config.absorbing:
                reward += batch[3] * 0.9 / (1.0 - 0.9) * self.form(self.logit(self.absorbed(x.shape[1])))
        return reward

    def form(self, logit: Tensor) -> Tensor:
        d = torch.sigmoid(logit.double())
        values = {"positive": -(1.0 - d).log(), "negative": d.log(), "logit": d.log() - (1.0 - d).log()}
        return values[self.config.reward].float()


def as_rows(batch: Batch) -> tuple[Tensor, ...]:
    """Observation, action, next observation and end of one seed's transitions."""
    parts = (batch.observation, batch.action, batch.next_observation, batch.terminated)
    axes = batch.reward.dim() - 1
    return tuple(part[0].flatten(0, axes - 1) for part in parts)


def cycles(agent: GAIL, spec: Spec, seeds: int, rollouts: bool) -> list[tuple[list[Batch], Noise]]:
    """Batches of the generator and, behind them, of an expert; and the draws."""
    size, shown = agent.batches_per_update, agent.demonstration_batches
    own = (
        random_rollouts(spec, UPDATES * size, seeds)
        if rollouts
        else random_batches(spec, UPDATES * size, seeds, EXPERTS)
    )
    experts = random_batches(spec, UPDATES * (shown + 3), seeds, EXPERTS)[3 * UPDATES :]
    noise = random_noise(agent, UPDATES, seeds, 18 if rollouts else EXPERTS)
    return [
        ([*own[i * size : (i + 1) * size], *experts[i * shown : (i + 1) * shown]], draws)
        for i, draws in enumerate(noise)
    ]


@variants
@pytest.mark.parametrize("rollouts", [True, False], ids=["rollouts", "replay"])
def test_updates_equal_a_plain_implementation(config: GAILConfig, spec: Spec, rollouts: bool) -> None:
    seeds = (3, 8)
    size = 1 if rollouts else 2
    generator = Recorder(spec, size)
    agent = GAIL(config, spec, generator)
    state = agent.init(seeds, CPU)
    plains = [PlainDiscriminator(config, spec, state, position) for position in range(len(seeds))]
    for i, (batches, noise) in enumerate(cycles(agent, spec, len(seeds), rollouts)):
        metrics = agent.update(state, batches, noise)
        for position, plain in enumerate(plains):
            own, experts = ([of_seed(b, position) for b in part] for part in (batches[:size], batches[size:]))
            rewards = plain.update(own, experts, noise_of_seed(noise, position))
            for batch, given, reward in zip(own, generator.given[i * size :], rewards, strict=True):
                actual = given.reward[position]
                assert actual.shape == batch.reward.shape[1:]
                torch.testing.assert_close(actual.flatten(), reward, rtol=1e-4, atol=1e-4)
            mean = torch.stack([reward.mean() for reward in rewards]).mean()
            torch.testing.assert_close(metrics["learned_reward"][position], mean, rtol=1e-4, atol=1e-4)
    for position, plain in enumerate(plains):
        assert_member_equals(state.discriminator.network, position, plain.net)


@variants
def test_training_seeds_together_equals_training_each_alone(config: GAILConfig, spec: Spec) -> None:
    seeds = (5, 11, 2)
    agent = GAIL(config, spec, PPO(PPOConfig(hidden=(8,), epochs=2), spec))
    together = agent.init(seeds, CPU)
    given = cycles(agent, spec, len(seeds), rollouts=True)
    for batches, noise in given:
        agent.update(together, batches, noise)
    trained = state_tensors(together)
    for position, seed in enumerate(seeds):
        alone = agent.init((seed,), CPU)
        for batches, noise in given:
            agent.update(alone, [of_seed(b, position) for b in batches], noise_of_seed(noise, position))
        for name, tensor in state_tensors(alone).items():
            ours = trained[name][position : position + 1] if tensor.dim() else trained[name]
            torch.testing.assert_close(ours, tensor, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("kind", ["ppo", "sac", "td3"])
def test_the_generator_learns_as_it_would_alone_from_the_learned_rewards(kind: str) -> None:
    spec = continuous()
    generators: dict[str, Agent[Any, Any]] = {
        "ppo": PPO(PPOConfig(hidden=(8,), epochs=2), spec),
        "sac": SAC(SACConfig(hidden=(8,)), spec),
        "td3": TD3(TD3Config(hidden=(8,)), spec),
    }
    generator = generators[kind]
    agent = GAIL(SMALL, spec, generator)
    state, alone = agent.init((0, 1), CPU), generator.init((0, 1), CPU)
    for batches, noise in cycles(agent, spec, 2, rollouts=kind == "ppo"):
        agent.update(state, batches, noise)
        flat = [dataclasses.replace(batch) for batch in batches[: generator.batches_per_update]]
        rewarded = [
            dataclasses.replace(batch, reward=agent.reward(state, rows).view(batch.reward.shape))
            for batch, rows in zip(flat, [_rows(batch) for batch in flat], strict=True)
        ]
        draws = {name.removeprefix("generator."): part for name, part in noise.items() if name.startswith("generator.")}
        generator.update(alone, rewarded, draws)
    for name, tensor in state_tensors(alone).items():
        assert torch.equal(state_tensors(state)[f"generator.{name}"], tensor), name
    observation, draws_ = torch.randn(2, 5, 3), torch.randn(2, 5, *agent.acting_noise_shape)
    for given in (None, draws_):
        assert torch.equal(act(agent, state, observation, given), act(generator, alone, observation, given))


def _rows(batch: Batch) -> Batch:
    """A rollout's transitions without the time axis."""
    if batch.reward.dim() == 2:
        return batch
    parts = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return Batch(**{name: part.flatten(1, 2) for name, part in parts.items() if part is not None})


@pytest.mark.parametrize(
    ("form", "expected"),
    [("positive", math.log(4.0)), ("negative", math.log(0.75)), ("logit", math.log(3.0))],
)
def test_rewards_of_a_known_decision(form: Any, expected: float) -> None:
    """D = 3/4 everywhere: the output layer's bias is the logit, log 3, and its weights are 0."""
    agent, state = certain(small(reward=form, absorbing=False), math.log(3.0))
    (batch,) = random_batches(continuous(), 1, 1)
    torch.testing.assert_close(agent.reward(state, batch), torch.full((1, 8), expected))


def test_what_follows_a_terminal_state_is_the_absorbing_one_for_ever() -> None:
    """The indicator alone is looked at: 1 living step earns log 3, an absorbing one log 3 − 2, and γ = 0.9."""
    agent, state = certain(small(hidden=()), math.log(3.0))
    linear = state.discriminator.network.layers[-1]
    with torch.no_grad():
        linear.weight[..., -1] = -2.0
    (batch,) = random_batches(continuous(), 1, 1)
    batch = dataclasses.replace(batch, terminated=torch.tensor([[1.0, 0.0] * 4]))
    living, absorbed = math.log(3.0), math.log(3.0) - 2.0
    series = sum(0.9**k * absorbed for k in range(1, 1_000))
    torch.testing.assert_close(agent.reward(state, batch), torch.tensor([[living + series, living] * 4]))


def certain(config: GAILConfig, logit: float) -> tuple[GAIL, GAILState]:
    """A discriminator that says the same of everything."""
    agent = GAIL(config, continuous(), Recorder(continuous()))
    state = agent.init((0,), CPU)
    with torch.no_grad():
        state.discriminator.network.layers[-1].weight.zero_()
        state.discriminator.network.layers[-1].bias.fill_(logit)
    return agent, state


def test_spectral_norm_holds_every_layer_at_one() -> None:
    agent = GAIL(small(spectral_norm=True), continuous(), Recorder(continuous()))
    discriminator = agent.init((0, 1), CPU).discriminator
    with torch.no_grad():
        discriminator.flat.mul_(5.0)
    for _ in range(200):
        discriminator.iterate()
    for layer in discriminator.layers():
        torch.testing.assert_close(torch.linalg.matrix_norm(layer.weight, ord=2), torch.ones(2), rtol=1e-3, atol=1e-3)


def test_metrics_count_right_decisions() -> None:
    config = small(hidden=(), normalize_input=False, absorbing=False, gradient_penalty=0.0, learning_rate=1e-9)
    agent = GAIL(config, continuous(), Recorder(continuous()))
    state = agent.init((0,), CPU)
    with torch.no_grad():
        state.discriminator.flat.zero_()
        state.discriminator.network.layers[0].weight[..., 0] = 1.0
    (own, expert) = random_batches(continuous(), 2, 1)
    expert.observation[0, :, 0] = torch.tensor([1.0, 1, 1, 1, 1, 1, -1, -1])
    own.observation[0, :, 0] = torch.tensor([1.0, -1, -1, 0, 0, 1, 1, 1])
    metrics = agent.update(state, [own, expert], random_noise(agent, 1, 1)[0])
    assert metrics["expert_accuracy"].tolist() == [0.75]
    assert metrics["generator_accuracy"].tolist() == [0.5]
    expected = sum(math.log1p(math.exp(-x)) for x in [1, 1, 1, 1, 1, 1, -1, -1]) / 8
    expected += sum(math.log1p(math.exp(x)) for x in [1, -1, -1, 0, 0, 1, 1, 1]) / 8
    assert metrics["discriminator_loss"].item() == pytest.approx(expected)
    assert metrics.keys() >= {"own_loss", "learned_reward"}


def test_the_state_of_both_survives_a_checkpoint() -> None:
    agent = GAIL(small(spectral_norm=True), continuous(), SAC(SACConfig(hidden=(8,)), continuous()))
    one, other = agent.init((0, 1), CPU), agent.init((5, 6), CPU)
    given = cycles(agent, continuous(), 2, rollouts=False)
    for batches, noise in given[:4]:
        agent.update(one, batches, noise)
    restore_state(other, {k: v.clone() for k, v in state_tensors(one).items()}, "a test")
    for batches, noise in given[4:]:
        agent.update(one, batches, noise)
        agent.update(other, batches, noise)
    for name, tensor in state_tensors(one).items():
        assert torch.equal(tensor, state_tensors(other)[name]), name


def test_critics_alone_leave_the_policy_as_it_is() -> None:
    agent = GAIL(SMALL, continuous(), TD3(TD3Config(hidden=(8,)), continuous()))
    state = agent.init((0,), CPU)
    before = {name: tensor.clone() for name, tensor in state_tensors(state).items()}
    ((batches, noise), *_) = cycles(agent, continuous(), 1, rollouts=False)
    agent.update_critic(state, batches, noise)
    changed = {name for name, tensor in state_tensors(state).items() if not torch.equal(tensor, before[name])}
    assert not [name for name in changed if name.startswith("generator.actor.")]
    assert {"discriminator.network.layers.0.weight", "generator.critic.layers.0.weight"} <= changed


def test_a_cloned_policy_is_where_the_generator_starts() -> None:
    cloner = BC(BCConfig(policy="deterministic", hidden=(8,)), continuous())
    cloned = cloner.init((4,), CPU)
    agent = GAIL(SMALL, continuous(), TD3(TD3Config(hidden=(8,)), continuous()))
    state = agent.init((0,), CPU)
    policy = cloner.policy_network(cloned)
    agent.adopt_policy(state, policy, cloner.kind)
    observation = torch.randn(1, 5, 3)
    assert torch.equal(act(agent, state, observation), act(cloner, cloned, observation))


def test_densities_are_the_generator_s() -> None:
    sac, td3 = SAC(SACConfig(hidden=(8,)), continuous()), TD3(TD3Config(hidden=(8,)), continuous())
    agent = GAIL(small(generator="sac"), continuous(), sac)
    state = agent.init((0,), CPU)
    observation, action = torch.randn(1, 5, 3), torch.rand(1, 5, 2)
    carry = agent.initial_carry(state, 5)
    expected = sac.log_prob(state.generator, observation, action, carry)
    assert torch.equal(agent.log_prob(state, observation, action, carry), expected)
    assert agent.has_density
    assert not GAIL(small(generator="td3"), continuous(), td3).has_density
    clipping = PPO(PPOConfig(hidden=(8,)), continuous())
    assert not GAIL(small(generator="ppo"), continuous(), clipping).has_density


def test_the_carry_is_the_generator_s() -> None:
    agent = GAIL(SMALL, continuous(), Recorder(continuous()))
    state = agent.init((0,), CPU)
    observation, carry = torch.randn(1, 5, 3), agent.initial_carry(state, 5)
    for step in range(3):
        action, carry = agent.act(state, observation, carry)
        assert action.eq(float(step)).all()


def test_what_the_generator_wants_to_know_it_is_told() -> None:
    options = PPOConfig(hidden=(8,), epochs=1, scale_reward=True, decay_steps=20)
    agent = GAIL(small(generator="ppo", generator_options=options), continuous(), PPO(options, continuous()))
    state = agent.init((0,), CPU)
    for batches, noise in cycles(agent, continuous(), 1, rollouts=True)[:2]:
        assert agent.ended_schedule(state) == 0
        agent.update(state, batches, noise)
    assert agent.ended_schedule(state) == 36
    assert state.generator.return_carry.ne(0.0).any()
    agent.episodes_cut(state)
    assert state.generator.return_carry.eq(0.0).all()
    other = GAIL(small(generator="td3"), continuous(), TD3(OPTIONS, continuous()))
    other_state = other.init((0,), CPU)
    other.episodes_cut(other_state)
    assert other.ended_schedule(other_state) == 0


def test_the_reward_s_form_favors_lengths_unless_episodes_end_in_the_absorbing_state() -> None:
    spec = continuous()
    assert GAIL(small(reward="positive"), spec, Recorder(spec)).length_bias == ""
    assert GAIL(small(reward="positive", absorbing=False), spec, Recorder(spec)).length_bias == "positive"


@variants
def test_no_value_is_read_where_calls_are_repeated(config: GAILConfig, spec: Spec) -> None:
    agent = GAIL(config, spec, Recorder(spec, 2))
    state = agent.init((0, 1), CPU)
    before = state_tensors(state)
    batches, noise = cycles(agent, spec, 2, rollouts=False)[0]
    with no_values_read():
        agent.learn_reward(state, batches[:2], batches[2:], noise)
    assert all(tensor.data_ptr() == before[name].data_ptr() for name, tensor in state_tensors(state).items())


def test_rewards_for_ever_need_a_discount() -> None:
    undiscounted = TD3Config(discount=1.0)
    generator = TD3(undiscounted, continuous())
    with pytest.raises(RecipeError, match=r"agent\.absorbing=false"):
        GAIL(small(generator_options=undiscounted), continuous(), generator)
    GAIL(small(generator_options=undiscounted, absorbing=False), continuous(), generator)


def test_actions_are_judged_as_the_environment_received_them() -> None:
    """Beyond the bounds nothing more is to be seen; the generator's density is still that of what it sampled."""
    spec, options = continuous(), PPOConfig(hidden=(8,), epochs=1)
    agent = GAIL(small(generator="ppo", generator_options=options), spec, PPO(options, spec))
    (own,), (expert,) = random_rollouts(spec, 1, 2), random_batches(spec, 1, 2, EXPERTS)
    sampled = dataclasses.replace(own, action=3.0 * own.action)
    executed = dataclasses.replace(own, action=sampled.action.clamp(-1.0, 1.0))
    assert (sampled.action.abs() > 1.0).float().mean() > 0.5
    noise, ends = random_noise(agent, 1, 2, 18)[0], []
    for batch in (sampled, executed):
        state, given = agent.init((0, 1), CPU), list[Batch]()
        agent.generator.update = lambda state, batches, noise, given=given: given.extend(batches) or {}  # type: ignore[method-assign, misc]
        metrics = agent.update(state, [batch, expert], noise)
        assert torch.equal(given[0].action, batch.action)
        ends.append((state_tensors(state), metrics["discriminator_loss"], given[0].reward))
    for name, tensor in ends[0][0].items():
        assert torch.equal(ends[1][0][name], tensor), name
    assert torch.equal(ends[0][1], ends[1][1])
    assert torch.equal(ends[0][2], ends[1][2])
