"""No library: offline algorithms as single files of straight-line PyTorch, batches by one gather and fused Adam."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    BLOCKS,
    CONTEXT,
    CRITICS,
    DEEP_HIDDEN,
    DEMONSTRATIONS,
    EPISODE_LENGTH,
    LARGE_BATCH_SIZE,
    OBSERVATION_DIM,
    SAMPLED_ACTIONS,
    TOKEN_WIDTH,
    WINDOWS,
    Window,
    main,
    steadily,
    synthetic_episodes,
)
from plain_rows import batches, network
from torch import Tensor, nn

PAIR = OBSERVATION_DIM + ACTION_DIM
DISCOUNT, TARGET_RATE, DROPOUT = 0.99, 0.005, 0.1


def drawn() -> Callable[[], Sequence[Tensor]]:
    """What draws observations, actions, rewards, next observations and γ where the episode goes on."""
    columns = [torch.from_numpy(column) for column in synthetic_episodes(DEMONSTRATIONS).transitions().values()]
    observations, actions, rewards, next_observations, terminated = columns
    discounts = DISCOUNT * (~terminated).float()
    return batches([observations, actions, rewards, next_observations, discounts], one_gather=True)


def adam(parameters: Iterable[Tensor], learning_rate: float) -> Callable[[Tensor], None]:
    """What takes one step down a loss."""
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)

    def minimize(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return minimize


def following(target: nn.Module, source: nn.Module) -> Callable[[], None]:
    """What moves a target network towards another one."""
    targets, sources = list(target.parameters()), [parameter.detach() for parameter in source.parameters()]

    def move() -> None:
        with torch.no_grad():
            torch._foreach_lerp_(targets, sources, TARGET_RATE)

    return move


def squashed_sample(output: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """An action of a Gaussian before its tanh, and its log-density."""
    mean, log_std = output.chunk(2, dim=-1)
    log_std = log_std.clamp(-20.0, 2.0)
    raw = mean + log_std.exp() * draws
    gaussian = -0.5 * draws.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    slope = 2.0 * (math.log(2.0) - raw - nn.functional.softplus(-2.0 * raw))
    return raw.tanh(), (gaussian - slope).sum(-1, keepdim=True)


def iql(window: Window) -> float:
    """IQL with the paper's options: steps of the value, the twin critics with their targets, and the policy."""
    draw = drawn()
    critics = nn.ModuleList(network(PAIR, 1) for _ in range(2))
    target_critics, value = copy.deepcopy(critics), network(OBSERVATION_DIM, 1)
    actor = nn.Sequential(network(OBSERVATION_DIM, ACTION_DIM), nn.Tanh())
    log_std = nn.Parameter(torch.zeros(ACTION_DIM))
    actor_step = adam([*actor.parameters(), log_std], 3e-4)
    critic_step, value_step = adam(critics.parameters(), 3e-4), adam(value.parameters(), 3e-4)
    move_targets = following(target_critics, critics)

    def step() -> int:
        observation, action, reward, next_observation, discount = draw()
        taken = torch.cat([observation, action], dim=1)
        with torch.no_grad():
            target_q = torch.min(target_critics[0](taken), target_critics[1](taken))
            target = reward + discount * value(next_observation)
        advantage = target_q - value(observation)
        value_step(((0.7 - (advantage < 0.0).float()).abs() * advantage.square()).mean())
        critic_step(sum(nn.functional.mse_loss(critic(taken), target) for critic in critics))
        move_targets()
        weight = (3.0 * advantage.detach()).exp().clamp(max=100.0)
        standardized = (action - actor(observation)) / log_std.exp()
        log_prob = (-0.5 * standardized.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(1, keepdim=True)
        actor_step(-(weight * log_prob).mean())
        return 1

    return steadily(window, step)


def cql(window: Window) -> float:
    """CQL with the authors' options for locomotion, a fixed weight: steps of critics with targets, policy, entropy."""
    draw = drawn()
    critics = nn.ModuleList(network(PAIR, 1, DEEP_HIDDEN) for _ in range(2))
    target_critics, actor = copy.deepcopy(critics), network(OBSERVATION_DIM, 2 * ACTION_DIM, DEEP_HIDDEN)
    log_alpha = nn.Parameter(torch.zeros(()))
    actor_step, critic_step, alpha_step = (
        adam(parameters, rate)
        for parameters, rate in ((actor.parameters(), 1e-4), (critics.parameters(), 3e-4), ([log_alpha], 1e-4))
    )
    move_targets = following(target_critics, critics)
    several = (BATCH_SIZE, SAMPLED_ACTIONS, ACTION_DIM)

    def step() -> int:
        observation, action, reward, next_observation, discount = draw()
        with torch.no_grad():
            there = actor(next_observation)
            next_action, _ = squashed_sample(there, torch.randn(BATCH_SIZE, ACTION_DIM))
            following_pair = torch.cat([next_observation, next_action], dim=1)
            target = reward + discount * torch.min(target_critics[0](following_pair), target_critics[1](following_pair))
            tried, log_densities = [torch.rand(several) * 2.0 - 1.0], [torch.full((*several[:2], 1), -2.0794415)]
            for output in (actor(observation), there):
                actions, log_density = squashed_sample(output.unsqueeze(1), torch.randn(several))
                tried.append(actions)
                log_densities.append(log_density)
            others, densities = torch.cat(tried, dim=1), torch.cat(log_densities, dim=1)
            repeated = observation.unsqueeze(1).expand(-1, 3 * SAMPLED_ACTIONS, -1)
            pairs = torch.cat([repeated, others], dim=2).flatten(0, 1)
        taken = torch.cat([observation, action], dim=1)
        loss = torch.zeros(())
        for critic in critics:
            q = critic(taken)
            gap = ((critic(pairs).view_as(densities) - densities).logsumexp(dim=1) - q).mean()
            loss = loss + nn.functional.mse_loss(q, target) + 5.0 * gap
        critic_step(loss)
        move_targets()
        chosen, log_prob = squashed_sample(actor(observation), torch.randn(BATCH_SIZE, ACTION_DIM))
        pair = torch.cat([observation, chosen], dim=1)
        actor_step((log_alpha.detach().exp() * log_prob - torch.min(critics[0](pair), critics[1](pair))).mean())
        alpha_step(-(log_alpha * (log_prob.detach() - ACTION_DIM)).mean())
        return 1

    return steadily(window, step)


class Stacked(nn.Module):
    """The linear layers of many critics as one batched product, [N, B, inputs] to [N, B, outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(CRITICS, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(CRITICS, 1, outputs).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, inputs, self.weight)


def edac(window: Window, diversity: float = 1.0) -> float:
    """EDAC with the paper's options: steps of the entropy, the policy, all critics and their targets; or SAC-N."""
    draw = drawn()
    critics = network(PAIR, 1, DEEP_HIDDEN, Stacked)
    target_critics, actor = copy.deepcopy(critics), network(OBSERVATION_DIM, 2 * ACTION_DIM, DEEP_HIDDEN)
    log_alpha = nn.Parameter(torch.zeros(()))
    actor_step, critic_step, alpha_step = (
        adam(parameters, 3e-4) for parameters in (actor.parameters(), critics.parameters(), [log_alpha])
    )
    move_targets, others = following(target_critics, critics), ~torch.eye(CRITICS, dtype=torch.bool)

    def least(network: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
        pair = torch.cat([observation, action], dim=1)
        values: Tensor = network(pair.expand(CRITICS, -1, -1)).amin(dim=0)
        return values

    def step() -> int:
        observation, action, reward, next_observation, discount = draw()
        chosen, log_prob = squashed_sample(actor(observation), torch.randn(BATCH_SIZE, ACTION_DIM))
        alpha_step(-(log_alpha * (log_prob.detach() - ACTION_DIM)).mean())
        alpha = log_alpha.detach().exp()
        actor_step((alpha * log_prob - least(critics, observation, chosen)).mean())
        with torch.no_grad():
            next_action, next_log_prob = squashed_sample(actor(next_observation), torch.randn(BATCH_SIZE, ACTION_DIM))
            next_value = least(target_critics, next_observation, next_action) - alpha * next_log_prob
            target = reward + discount * next_value
        actions = action.expand(CRITICS, -1, -1)
        if diversity:
            actions = actions.clone().requires_grad_()
        q = critics(torch.cat([observation.expand(CRITICS, -1, -1), actions], dim=2))
        loss = (q - target).square().mean(dim=1).sum()
        if diversity:
            (slopes,) = torch.autograd.grad(q.sum(), actions, create_graph=True)
            directions = (slopes / (slopes.norm(dim=2, keepdim=True) + 1e-10)).transpose(0, 1)
            cosines = directions @ directions.mT
            loss = loss + diversity * (cosines * others).sum(dim=(1, 2)).mean() / (CRITICS - 1)
        critic_step(loss)
        move_targets()
        return 1

    return steadily(window, step)


def normalized(inputs: int, outputs: int) -> nn.Module:
    """A linear layer, and behind hidden ones a layer norm."""
    linear = nn.Linear(inputs, outputs)
    return linear if outputs == 1 else nn.Sequential(linear, nn.LayerNorm(outputs))


def rebrac(window: Window) -> float:
    """ReBRAC with the paper's options; every second critic step is followed by one of the actor and the targets."""
    columns = [torch.from_numpy(column) for column in synthetic_episodes(DEMONSTRATIONS).transitions().values()]
    observations, actions, rewards, next_observations, terminated = columns
    discounts, following_actions = DISCOUNT * (~terminated).float(), actions.roll(-1, 0)
    draw = batches(
        [observations, actions, rewards, next_observations, discounts, following_actions],
        one_gather=True,
        size=LARGE_BATCH_SIZE,
    )
    actor = nn.Sequential(network(OBSERVATION_DIM, ACTION_DIM, DEEP_HIDDEN), nn.Tanh())
    critics = nn.ModuleList(network(PAIR, 1, DEEP_HIDDEN, normalized) for _ in range(2))
    target_actor, target_critics = copy.deepcopy(actor), copy.deepcopy(critics)
    actor_step, critic_step = adam(actor.parameters(), 1e-3), adam(critics.parameters(), 1e-3)
    move_targets = following(target_critics, critics), following(target_actor, actor)
    updates = 0

    def step() -> int:
        nonlocal updates
        updates += 1
        observation, action, reward, next_observation, discount, logged = draw()
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(action)).clamp(-0.5, 0.5)
            next_action = (target_actor(next_observation) + noise).clamp(-1.0, 1.0)
            pair = torch.cat([next_observation, next_action], dim=1)
            distance = (next_action - logged).square().sum(1, keepdim=True)
            next_value = torch.min(target_critics[0](pair), target_critics[1](pair)) - 0.01 * distance
            target = reward + discount * next_value
        taken = torch.cat([observation, action], dim=1)
        critic_step(sum(nn.functional.mse_loss(critic(taken), target) for critic in critics))
        if updates % 2:
            return 1
        chosen = actor(observation)
        pair = torch.cat([observation, chosen], dim=1)
        q = torch.min(critics[0](pair), critics[1](pair))
        distance = (chosen - action).square().sum(1, keepdim=True)
        actor_step((0.01 * distance - q / q.abs().mean().detach()).mean())
        for move in move_targets:
            move()
        return 1

    return steadily(window, step)


class Block(nn.Module):
    """Causal attention of one head, and two layers behind it, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(TOKEN_WIDTH), nn.LayerNorm(TOKEN_WIDTH)
        self.attention, self.out = nn.Linear(TOKEN_WIDTH, 3 * TOKEN_WIDTH), nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.wide, self.narrow = nn.Linear(TOKEN_WIDTH, 4 * TOKEN_WIDTH), nn.Linear(4 * TOKEN_WIDTH, TOKEN_WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.attention(self.before(tokens)).unsqueeze(1).chunk(3, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=DROPOUT, is_causal=True)
        tokens = tokens + nn.functional.dropout(self.out(attended.squeeze(1)), DROPOUT)
        hidden = self.narrow(self.wide(self.between(tokens)).relu())
        return tokens + nn.functional.dropout(hidden, DROPOUT)


class DecisionTransformer(nn.Module):
    """Actions [B, K, A] from returns to go, observations and actions, three tokens a step."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Linear(width, TOKEN_WIDTH) for width in (1, OBSERVATION_DIM, ACTION_DIM))
        self.time = nn.Embedding(EPISODE_LENGTH, TOKEN_WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(TOKEN_WIDTH) for _ in range(2))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(TOKEN_WIDTH, ACTION_DIM)

    def forward(self, parts: Sequence[Tensor], timestep: Tensor) -> Tensor:
        time = self.time(timestep)
        steps = [embedding(part) + time for embedding, part in zip(self.embeddings, parts, strict=True)]
        tokens = nn.functional.dropout(self.norms[0](torch.stack(steps, dim=2).flatten(1, 2)), DROPOUT)
        actions: Tensor = self.head(self.norms[1](self.blocks(tokens))[:, 1::3]).tanh()
        return actions


def decision_transformer(window: Window) -> float:
    """Decision Transformer with the authors' options for locomotion, on windows that no episode is too short for."""
    episodes = synthetic_episodes(DEMONSTRATIONS)
    reward = torch.from_numpy(episodes.reward)
    to_go = reward.flip(1).cumsum(1).flip(1).unsqueeze(2) / 1000.0
    observation, action = torch.from_numpy(episodes.observation[:, :-1]), torch.from_numpy(episodes.action)
    packed, widths = torch.cat([to_go, observation, action], dim=2).flatten(0, 1), [1, OBSERVATION_DIM, ACTION_DIM]
    model, steps = DecisionTransformer(), torch.arange(CONTEXT)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4, fused=True)

    def step() -> int:
        timestep = torch.randint(EPISODE_LENGTH - CONTEXT, (WINDOWS, 1)) + steps
        rows = torch.randint(DEMONSTRATIONS, (WINDOWS, 1)) * EPISODE_LENGTH + timestep
        parts = packed[rows].split(widths, dim=2)
        loss = nn.functional.mse_loss(model(parts, timestep), parts[2])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.25)
        optimizer.step()
        return 1

    return steadily(window, step)


if __name__ == "__main__":
    rows = {
        "iql": iql,
        "cql": cql,
        "edac": edac,
        "rebrac": rebrac,
        "dt": decision_transformer,
        "sac-n": lambda window: edac(window, diversity=0.0),
    }
    main(rows, "torch")
