"""JAX: what a single file reaches whose updates XLA compiles, 64 of them in one call, batches drawn within."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    BLOCK,
    DEMONSTRATIONS,
    HIDDEN,
    OBSERVATION_DIM,
    SEEDS,
    Window,
    main,
    steadily,
    synthetic_episodes,
)

Layers = list[tuple[Array, Array]]
State = dict[str, Any]

FIRST_DECAY, SECOND_DECAY, EPSILON, LEARNING_RATE = 0.9, 0.999, 1e-8, 3e-4


def network(key: Array, inputs: int, outputs: int) -> Layers:
    """Weights and biases as PyTorch's linear layers start."""
    widths = [inputs, *HIDDEN, outputs]
    layers = []
    for layer_key, (width, following) in zip(jax.random.split(key, len(widths) - 1), pairwise(widths), strict=True):
        weight_key, bias_key = jax.random.split(layer_key)
        bound = width**-0.5
        weight = jax.random.uniform(weight_key, (width, following), minval=-bound, maxval=bound)
        layers.append((weight, jax.random.uniform(bias_key, (following,), minval=-bound, maxval=bound)))
    return layers


def apply(layers: Layers, x: Array) -> Array:
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def act(actor: Layers, observation: Array) -> Array:
    return jnp.tanh(apply(actor, observation))


def q_value(critic: Layers, observation: Array, action: Array) -> Array:
    return apply(critic, jnp.concatenate([observation, action], axis=1))[:, 0]


def adam(parameters: Any, moments: tuple[Any, Any, Array], gradient: Any) -> tuple[Any, tuple[Any, Any, Array]]:
    first, second, step = moments
    step = step + 1
    first = jax.tree.map(lambda m, g: FIRST_DECAY * m + (1 - FIRST_DECAY) * g, first, gradient)
    second = jax.tree.map(lambda v, g: SECOND_DECAY * v + (1 - SECOND_DECAY) * g * g, second, gradient)
    size = LEARNING_RATE / (1 - FIRST_DECAY**step)
    correction = 1 - SECOND_DECAY**step
    parameters = jax.tree.map(
        lambda p, m, v: p - size * m / (jnp.sqrt(v / correction) + EPSILON), parameters, first, second
    )
    return parameters, (first, second, step)


def at_rest(parameters: Any) -> tuple[Any, Any, Array]:
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros(())


def initial(key: Array) -> State:
    actor_key, first_key, second_key, draws = jax.random.split(key, 4)
    actor = network(actor_key, OBSERVATION_DIM, ACTION_DIM)
    critics = [network(each, OBSERVATION_DIM + ACTION_DIM, 1) for each in (first_key, second_key)]
    copied = partial(jax.tree.map, jnp.copy)
    return {
        "actor": actor,
        "critics": critics,
        "target_actor": copied(actor),
        "target_critics": copied(critics),
        "actor_moments": at_rest(actor),
        "critic_moments": at_rest(critics),
        "key": draws,
    }


def critic_step(state: State, data: State) -> tuple[State, State]:
    """One critic step; returns the batch as well."""
    key, index_key, noise_key = jax.random.split(state["key"], 3)
    index = jax.random.randint(index_key, (BATCH_SIZE,), 0, len(data["reward"]))
    batch = {name: column[index] for name, column in data.items()}
    noise = jnp.clip(0.2 * jax.random.normal(noise_key, batch["action"].shape), -0.5, 0.5)
    next_observation = batch["next_observation"]
    next_action = jnp.clip(act(state["target_actor"], next_observation) + noise, -1.0, 1.0)
    first, second = (q_value(critic, next_observation, next_action) for critic in state["target_critics"])
    target = batch["reward"] + batch["discount"] * jnp.minimum(first, second)

    def loss(critics: list[Layers]) -> Array:
        return sum(
            ((q_value(critic, batch["observation"], batch["action"]) - target) ** 2).mean() for critic in critics
        )

    critics, moments = adam(state["critics"], state["critic_moments"], jax.grad(loss)(state["critics"]))
    return state | {"critics": critics, "critic_moments": moments, "key": key}, batch


def actor_step(state: State, batch: State) -> State:
    """One step of the actor and of all targets."""
    observation, action = batch["observation"], batch["action"]

    def loss(actor: Layers) -> Array:
        chosen = act(actor, observation)
        q = q_value(state["critics"][0], observation, chosen)
        return ((chosen - action) ** 2).mean() - 2.5 / jax.lax.stop_gradient(jnp.abs(q).mean()) * q.mean()

    actor, moments = adam(state["actor"], state["actor_moments"], jax.grad(loss)(state["actor"]))
    towards = partial(jax.tree.map, lambda target, learned: target + 0.005 * (learned - target))
    return state | {
        "actor": actor,
        "actor_moments": moments,
        "target_actor": towards(state["target_actor"], actor),
        "target_critics": towards(state["target_critics"], state["critics"]),
    }


def td3_bc(window: Window, seeds: int = 1) -> float:
    """TD3+BC with the paper's options; seeds side by side as XLA batches them."""
    data = {name: jnp.asarray(column) for name, column in synthetic_episodes(DEMONSTRATIONS).transitions().items()}
    mean, std = data["observation"].mean(0), data["observation"].std(0) + 1e-3
    data["observation"] = (data["observation"] - mean) / std
    data["next_observation"] = (data["next_observation"] - mean) / std
    data["discount"] = 0.99 * (~data.pop("terminated")).astype(jnp.float32)

    def two_updates(state: State, _: None) -> tuple[State, None]:
        state, _unused = critic_step(state, data)
        return actor_step(*critic_step(state, data)), None

    def block(state: State) -> State:
        return jax.lax.scan(two_updates, state, length=BLOCK // 2)[0]

    one_call = jax.jit(block if seeds == 1 else jax.vmap(block), donate_argnums=0)
    keys = jax.random.split(jax.random.key(0), seeds)
    state = initial(keys[0]) if seeds == 1 else jax.vmap(initial)(keys)

    def step() -> int:
        nonlocal state
        state = jax.block_until_ready(one_call(state))
        return BLOCK

    return steadily(window, step)


if __name__ == "__main__":
    main({"td3-bc": td3_bc, "td3-bc-seeds": lambda window: td3_bc(window, SEEDS)}, "jax")
