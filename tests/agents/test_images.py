"""What agents learn of images, beside plain `torch.nn` convolutions and `torch.optim`."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offrl import plugins
from offrl.errors import RecipeError
from offrl.nn.encoder import EncodedMLP
from offrl.testing.trial import Trial
from offrl.types import Batch, CriticOnly, Spec

EYE = gym.spaces.Dict(
    {"eye": gym.spaces.Box(0, 255, (9, 7, 3), np.uint8), "joint": gym.spaces.Box(-1.0, 1.0, (2,), np.float32)}
)
SPEC = Spec(EYE, gym.spaces.Box(-1.0, 1.0, (2,), np.float32))
RATE = 1e-3
SMALL: dict[str, Any] = {"hidden": (8, 6), "convolutions": ((4, 3, 2), (5, 2, 1))}
CRITICS = {"actor_learning_rate": RATE, "critic_learning_rate": RATE}


class Plain(nn.Module):
    """One seed's and one member's network, made of `torch.nn` layers with the weights of ours."""

    def __init__(self, network: EncodedMLP, member: int) -> None:
        super().__init__()
        weights = network.state_dict()
        self.convolutions, self.layers = nn.ModuleList(), nn.ModuleList()
        for number, stride in enumerate((2, 1)):
            weight, bias = (weights[f"encoder.images.0.{kind}.{number}"][0] for kind in ("weights", "biases"))
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride)
            self._fill(layer, weight, bias)
            self.convolutions.append(layer)
        for number in range(len(network.layers)):
            weight, bias = (weights[f"layers.{number}.{kind}"][0, member] for kind in ("weight", "bias"))
            matrix = weight if weight.shape[0] == bias.numel() else weight.T
            linear = nn.Linear(matrix.shape[1], matrix.shape[0])
            self._fill(linear, matrix, bias.flatten())
            self.layers.append(linear)

    def _fill(self, layer: Any, weight: Tensor, bias: Tensor) -> None:
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)

    def encode(self, observation: Any) -> Tensor:
        x = observation["eye"][0].permute(0, 3, 1, 2) / 255.0
        for layer in self.convolutions:
            x = torch.relu(layer(x))
        return torch.cat([x.flatten(1), observation["joint"][0]], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        output: Tensor = self.layers[-1](x)
        return output


def trial_of(algo: str, options: dict[str, Any], batches: int = 1) -> Trial:
    return Trial.of(plugins.algorithms[algo], SPEC, SMALL | options, seeds=(3, 4), updates=2, batches=None)


def target_of(algo: str, agent: Any, state: Any, batch: Batch, metrics: Any, before: Any) -> Tensor:
    """What the critics' values were regressed on, [B]."""
    if algo == "iql":
        # The value moves before the critics do, and its features are those before.
        value = state.value(before.critic.features_of(batch.next_observation)).squeeze(-1)
        return (batch.reward + batch.discount * value)[0].detach()
    found: Tensor = metrics["target_q"][0]
    return found


@pytest.mark.parametrize("algo", ["td3", "sac", "iql"])
def test_the_critics_loss_alone_trains_the_encoder(algo: str) -> None:
    options = CRITICS | ({"policy_delay": 1} if algo == "td3" else {})
    trial = trial_of(algo, options)
    agent = trial.agent()
    state = trial.start(agent)
    before = copy.deepcopy(state)
    (batch,) = trial.inputs[0]
    metrics = agent.update(state, [batch], trial.noise[0])
    target = target_of(algo, agent, state, batch, metrics, before)

    one, other = (Plain(before.critic, member) for member in range(2))
    other.convolutions = one.convolutions
    optimizer = torch.optim.Adam([*one.parameters(), *other.layers.parameters()], RATE)
    features = torch.cat([one.encode(batch.observation), batch.action[0]], dim=1)
    losses = [(network(features).squeeze(1) - target).square().mean() for network in (one, other)]
    torch.stack(losses).sum().backward()
    optimizer.step()
    with torch.no_grad():
        expected = one.encode(batch.observation)
        torch.testing.assert_close(state.critic.encoder(batch.observation)[0], expected, rtol=1e-4, atol=1e-5)
        pairs = torch.cat([expected, batch.action[0]], dim=1)
        values = state.critic(torch.cat([state.critic.encoder(batch.observation), batch.action], dim=-1))[0]
        torch.testing.assert_close(values, torch.stack([one(pairs), other(pairs)]), rtol=1e-4, atol=1e-5)


def test_the_actor_of_td3_climbs_the_critic_s_value_of_its_features() -> None:
    trial = trial_of("td3", CRITICS | {"policy_delay": 1})
    agent = trial.agent()
    state = trial.start(agent)
    actor = copy.deepcopy(state.actor)
    (batch,) = trial.inputs[0]
    agent.update(state, [batch], trial.noise[0])
    critic = Plain(state.critic, 0)
    features = critic.encode(batch.observation).detach()
    optimizer = torch.optim.Adam(actor.parameters(), RATE)
    action = actor(torch.stack([features] * 2)).tanh()[0]
    (-critic(torch.cat([features, action], dim=1)).mean()).backward()
    optimizer.step()
    after = [network(torch.stack([features] * 2))[0] for network in (state.actor, actor)]
    torch.testing.assert_close(*after, rtol=1e-4, atol=1e-5)


def test_cloning_trains_the_convolutions() -> None:
    trial = trial_of("bc", {"learning_rate": RATE})
    agent = trial.agent()
    state = trial.start(agent)
    plain = Plain(copy.deepcopy(state.policy), 0)
    (batch,) = trial.inputs[0]
    agent.update(state, [batch], trial.noise[0])
    optimizer = torch.optim.Adam(plain.parameters(), RATE)
    action = plain(plain.encode(batch.observation)).tanh()
    (action - batch.action[0]).square().sum(dim=1).mean().backward()
    optimizer.step()
    expected = plain(plain.encode(batch.observation)).tanh()
    found, _ = agent.act(state, batch.observation, ())
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algo", ["td3", "sac", "iql", "ppo"])
def test_the_policy_stands_still_while_critics_learn_alone(algo: str) -> None:
    trial = trial_of(algo, {} if algo == "ppo" else {"critic_learning_rate": 0.1})
    agent: Any = trial.agent()
    assert trial.algorithm.can(CriticOnly)
    state = trial.start(agent)
    observation = trial.data().observation(2, 6)
    before, _ = agent.act(state, observation, ())
    agent.update_critic(state, trial.inputs[0], trial.noise[0])
    after, _ = agent.act(state, observation, ())
    assert torch.equal(before, after)


def cloned(options: dict[str, Any]) -> tuple[Any, Any]:
    trial = trial_of("bc", options)
    agent = trial.agent()
    return agent, trial.start(agent)


def test_an_actor_that_reads_its_critics_convolutions_can_t_start_as_a_clone() -> None:
    cloner, source = cloned({})
    for algo in ("td3", "sac", "iql"):
        trial = trial_of(algo, {})
        agent: Any = trial.agent()
        with pytest.raises(RecipeError, match="convolutions of its own"):
            agent.adopt_policy(trial.start(agent), cloner.policy_network(source), "deterministic")


def test_ppo_starts_with_a_clone_s_convolutions_or_says_why_not() -> None:
    cloner, source = cloned({"policy": "squashed_gaussian", "activation": "tanh"})
    for convolutions, fits in ((SMALL["convolutions"], True), (((4, 3, 1),), False), ((), False)):
        trial = trial_of("ppo", {"policy": "squashed_gaussian", "convolutions": convolutions})
        agent: Any = trial.agent()
        state = trial.start(agent)
        if not fits:
            with pytest.raises(RecipeError, match="other convolutions" if convolutions else "convolutions of its own"):
                agent.adopt_policy(state, cloner.policy_network(source), "squashed_gaussian")
            continue
        agent.adopt_policy(state, cloner.policy_network(source), "squashed_gaussian")
        observation = trial.data().observation(2, 6)
        ours, theirs = agent.act(state, observation, ())[0], cloner.act(source, observation, ())[0]
        torch.testing.assert_close(ours, theirs)


def test_ppo_does_not_normalize_images_as_they_come() -> None:
    with pytest.raises(RecipeError, match="images aren't normalized"):
        trial_of("ppo", {"normalize_observation": True}).agent()


@pytest.mark.parametrize("algo", ["bc", "dqn", "td3", "sac", "iql", "ppo"])
def test_images_lie_flat_where_no_convolutions_are_asked_for(algo: str) -> None:
    acted = gym.spaces.Discrete(3) if algo == "dqn" else SPEC.action_space
    record = plugins.algorithms[algo]
    agent = record.build(record.options({"hidden": (4,), "convolutions": ()}), Spec(EYE, acted))
    state: Any = agent.init([0], torch.device("cpu"))
    holder = {"bc": "policy", "dqn": "network", "ppo": "critic"}.get(algo, "critic")
    assert list(vars(state)[holder].encoder.parameters()) == []
    observation = {"eye": torch.zeros(1, 2, 9, 7, 3, dtype=torch.uint8), "joint": torch.zeros(1, 2, 2)}
    agent.act(state, observation, agent.initial_carry(state, 2))
