"""Plain `torch.nn` networks with the weights of one seed and member of a stacked one."""

from __future__ import annotations

import math

import torch
from torch import nn

from offrl.nn import MLP, Schedule

MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def copy_of_member(network: MLP, seed: int, activation: str = "relu", member: int = 0) -> nn.Sequential:
    """An independent `nn.Sequential` of `nn.Linear`, `nn.LayerNorm` and an activation."""
    modules: list[nn.Module] = []
    with torch.no_grad():
        for depth, layer in enumerate(network.layers):
            outputs, inputs = layer.weight.shape[-2:]
            linear = nn.Linear(inputs, outputs)
            linear.weight.copy_(layer.weight[seed, member])
            linear.bias.copy_(layer.bias[seed, member, 0])
            modules.append(linear)
            if depth == len(network.layers) - 1:
                break
            if len(network.norms):
                norm = nn.LayerNorm(outputs)
                norm.weight.copy_(network.norms[depth].gain[seed, member, 0])
                norm.bias.copy_(network.norms[depth].offset[seed, member, 0])
                modules.append(norm)
            modules.append(MODULES[activation]())
    return nn.Sequential(*modules)


def assert_member_equals(
    network: MLP, seed: int, plain: nn.Sequential, member: int = 0, atol: float = 1e-5, what: str = ""
) -> None:
    """Compare one seed's weights with those of a plain network."""
    linears = [module for module in plain if isinstance(module, nn.Linear)]
    norms = [module for module in plain if isinstance(module, nn.LayerNorm)]
    for depth, (layer, linear) in enumerate(zip(network.layers, linears, strict=True)):
        message = f"{what} layer {depth}"
        torch.testing.assert_close(layer.weight[seed, member], linear.weight, rtol=0.0, atol=atol, msg=message)
        torch.testing.assert_close(layer.bias[seed, member, 0], linear.bias, rtol=0.0, atol=atol, msg=message)
    for norm, reference in zip(network.norms, norms, strict=True):
        torch.testing.assert_close(norm.gain[seed, member, 0], reference.weight, rtol=0.0, atol=atol)
        torch.testing.assert_close(norm.offset[seed, member, 0], reference.bias, rtol=0.0, atol=atol)


def share_of_rate(schedule: Schedule, taken: int, steps: int = 1) -> float:
    """Of the whole step size, that of a step that counts for `steps` behind those taken."""
    c = schedule
    rise = min(1.0, (taken + steps) / c.warmup_steps) if c.warmup_steps else 1.0
    fallen = min(1.0, max(0.0, (taken - c.warmup_steps - c.constant_steps) / c.decay_steps)) if c.decay_steps else 0.0
    return rise * (0.5 * (1.0 + math.cos(math.pi * fallen)) if c.decay_shape == "cosine" else 1.0 - fallen)


def follow(optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int = 1) -> None:
    """Have step sizes go by a schedule, of which each step counts for `steps`."""
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda taken: share_of_rate(schedule, taken * steps, steps))
    optimizer.register_step_post_hook(lambda *_: rates.step())


def fall_linearly(optimizer: torch.optim.Optimizer, decay_steps: float, constant_steps: float = 0) -> None:
    """Have step sizes fall to 0 over `decay_steps` behind the constant ones; 0 keeps them."""
    if decay_steps:
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda taken: min(1.0, max(0.0, 1.0 - (taken - constant_steps) / decay_steps))
        )
        optimizer.register_step_post_hook(lambda *_: schedule.step())
