"""No library: what a single file of straight-line PyTorch does, and what importing PyTorch alone costs."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    BLOCK,
    DEMONSTRATIONS,
    HIDDEN,
    OBSERVATION_DIM,
    SAMPLING_EPISODES,
    Window,
    main,
    process_seconds,
    steadily,
    synthetic_episodes,
)
from torch import Tensor, nn


def sampling(window: Window, batches: int = 1) -> float:
    """Index five tensors with the same random rows."""
    columns = [torch.from_numpy(column) for column in synthetic_episodes(SAMPLING_EPISODES).transitions().values()]
    rows, drawn = len(columns[0]), batches * BATCH_SIZE

    def step() -> int:
        index = torch.randint(rows, (drawn,))
        for column in columns:
            column[index]
        return drawn

    return steadily(window, step)


def sampling_blocks(window: Window) -> float:
    return sampling(window, BLOCK)


def network(
    inputs: int,
    outputs: int,
    widths: Sequence[int] = HIDDEN,
    linear: Callable[[int, int], nn.Module] = nn.Linear,
) -> nn.Sequential:
    hidden = [layer for pair in pairwise([inputs, *widths]) for layer in (linear(*pair), nn.ReLU())]
    return nn.Sequential(*hidden, linear(widths[-1], outputs))


def batches(columns: list[Tensor], *, one_gather: bool, size: int = BATCH_SIZE) -> Callable[[], Sequence[Tensor]]:
    """What draws the same random rows of all columns, [size, width], column by column or by one gather."""
    columns = [column.float().reshape(len(column), -1) for column in columns]
    if not one_gather:
        rows = len(columns[0])

        def each() -> Sequence[Tensor]:
            index = torch.randint(rows, (size,))
            return [column[index] for column in columns]

        return each
    packed, widths = torch.cat(columns, dim=1), [column.shape[1] for column in columns]
    return lambda: packed[torch.randint(len(packed), (size,))].split(widths, dim=1)


def bc(window: Window, *, fused: bool = False) -> float:
    """Deterministic cloning: squared error, Adam; `fused` as in `td3_bc`."""
    transitions = synthetic_episodes(DEMONSTRATIONS).transitions()
    draw = batches([torch.from_numpy(transitions[name]) for name in ("observation", "action")], one_gather=fused)
    policy = nn.Sequential(network(OBSERVATION_DIM, ACTION_DIM), nn.Tanh())
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3, fused=fused)

    def step() -> int:
        observation, action = draw()
        loss = nn.functional.mse_loss(policy(observation), action)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return 1

    return steadily(window, step)


@torch.inference_mode()
def bc_kernels(window: Window) -> float:
    """The kernels that an update of deterministic cloning can't do without, again and again on the same memory.

    No batches are drawn, no metrics made, nothing is allocated: what PyTorch on these threads leaves to be gained.
    """
    widths = [OBSERVATION_DIM, *HIDDEN, ACTION_DIM]
    sizes = [size for inputs, outputs in pairwise(widths) for size in (outputs * inputs, outputs)]
    flat, gradient, first, second = torch.randn(4, sum(sizes)).mul_(0.05).abs_().unbind()
    weights, biases = flat.split(sizes)[::2], flat.split(sizes)[1::2]
    by_weight, by_bias = gradient.split(sizes)[::2], gradient.split(sizes)[1::2]
    shapes = [(outputs, inputs) for inputs, outputs in pairwise(widths)]
    weights = [weight.view(shape) for weight, shape in zip(weights, shapes, strict=True)]
    by_weight = [part.view(shape) for part, shape in zip(by_weight, shapes, strict=True)]
    layer_inputs = [torch.randn(BATCH_SIZE, width) for width in widths[:-1]]
    slopes = [torch.empty(BATCH_SIZE, width) for width in widths[1:]]
    prediction, action, steps = (
        torch.empty(BATCH_SIZE, ACTION_DIM),
        torch.randn(BATCH_SIZE, ACTION_DIM),
        torch.zeros(()),
    )
    last = len(weights) - 1

    def step() -> int:
        for layer in range(last):
            torch.addmm(biases[layer], layer_inputs[layer], weights[layer].T, out=layer_inputs[layer + 1]).relu_()
        torch.addmm(biases[last], layer_inputs[last], weights[last].T, out=prediction).tanh_()
        torch.sub(prediction, action, out=slopes[last]).mul_(2.0 / BATCH_SIZE)
        torch.ops.aten.tanh_backward.grad_input(slopes[last], prediction, grad_input=slopes[last])
        for layer in range(last, -1, -1):
            torch.mm(slopes[layer].T, layer_inputs[layer], out=by_weight[layer])
            torch.sum(slopes[layer], dim=0, out=by_bias[layer])
            if layer:
                before = torch.mm(slopes[layer], weights[layer], out=slopes[layer - 1])
                torch.ops.aten.threshold_backward.grad_input(before, layer_inputs[layer], 0.0, grad_input=before)
        steps.add_(1.0)
        torch._fused_adamw_(
            [flat],
            [gradient],
            [first],
            [second],
            [],
            [steps],
            lr=1e-3,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
        return 1

    return steadily(window, step)


def td3_bc(window: Window, *, fused: bool = False) -> float:
    """TD3+BC with the paper's options; every second critic step is followed by one of the actor and the targets.

    Args:
        window: how long to count.
        fused: batches by one gather, Adam's steps in one kernel and the targets' in one call.
    """
    columns = [torch.from_numpy(column) for column in synthetic_episodes(DEMONSTRATIONS).transitions().values()]
    observations, actions, rewards, next_observations, terminated = columns
    mean, std = observations.mean(0), observations.std(0) + 1e-3
    observations, next_observations = (observations - mean) / std, (next_observations - mean) / std
    draw = batches([observations, actions, rewards, next_observations, 0.99 * (~terminated).float()], one_gather=fused)

    actor = nn.Sequential(network(OBSERVATION_DIM, ACTION_DIM), nn.Tanh())
    critics = nn.ModuleList(network(OBSERVATION_DIM + ACTION_DIM, 1) for _ in range(2))
    target_actor, target_critics = copy.deepcopy(actor), copy.deepcopy(critics)
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=3e-4, fused=fused)
    critic_optimizer = torch.optim.Adam(critics.parameters(), lr=3e-4, fused=fused)
    learned = [*actor.parameters(), *critics.parameters()]
    targets = [*target_actor.parameters(), *target_critics.parameters()]
    updates = 0

    def step() -> int:
        nonlocal updates
        updates += 1
        observation, action, reward, next_observation, discount = draw()
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(action)).clamp(-0.5, 0.5)
            next_action = (target_actor(next_observation) + noise).clamp(-1.0, 1.0)
            following = torch.cat([next_observation, next_action], dim=1)
            next_value = torch.min(target_critics[0](following), target_critics[1](following))
            target_q = reward + discount * next_value
        taken = torch.cat([observation, action], dim=1)
        critic_loss = sum(nn.functional.mse_loss(critic(taken), target_q) for critic in critics)
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()
        if updates % 2:
            return 1
        chosen = actor(observation)
        q = critics[0](torch.cat([observation, chosen], dim=1))
        actor_loss = nn.functional.mse_loss(chosen, action) - 2.5 / q.abs().mean().detach() * q.mean()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()
        with torch.no_grad():
            if fused:
                torch._foreach_lerp_(targets, learned, 0.005)
            else:
                for target, parameter in zip(targets, learned, strict=True):
                    target.lerp_(parameter, 0.005)
        return 1

    return steadily(window, step)


def import_torch(window: Window) -> float:
    return process_seconds(window, [sys.executable, "-c", "import torch"])


if __name__ == "__main__":
    rows = {
        "sampling": sampling,
        "sampling-blocks": sampling_blocks,
        "bc": bc,
        "bc-kernels": bc_kernels,
        "td3-bc": td3_bc,
        "bc-fused": lambda window: bc(window, fused=True),
        "td3-bc-fused": lambda window: td3_bc(window, fused=True),
        "help": import_torch,
    }
    main(rows, "torch")
