"""d3rlpy: its replay buffer, and algorithms by its own `fit`."""

from __future__ import annotations

import contextlib
import logging

import d3rlpy
import numpy as np
import structlog
from measuring import (
    BATCH_SIZE,
    BLOCKS,
    CONTEXT,
    CRITICS,
    DEEP_HIDDEN,
    DEMONSTRATIONS,
    ENDLESS,
    EPISODE_LENGTH,
    HIDDEN,
    LARGE_BATCH_SIZE,
    SAMPLED_ACTIONS,
    SAMPLING_EPISODES,
    TOKEN_WIDTH,
    WINDOWS,
    Window,
    WindowOver,
    main,
    steadily,
    synthetic_episodes,
)


def replay_buffer(episodes: int) -> d3rlpy.dataset.ReplayBuffer:
    """The synthetic episodes as d3rlpy keeps them; its flags mark the last transition of each episode."""
    transitions = synthetic_episodes(episodes).transitions()
    length = len(transitions["reward"]) // episodes
    timeouts = np.zeros(len(transitions["reward"]), dtype=np.float32)
    timeouts[length - 1 :: length] = 1.0
    return d3rlpy.dataset.MDPDataset(
        observations=transitions["observation"],
        actions=transitions["action"],
        rewards=transitions["reward"],
        terminals=transitions["terminated"].astype(np.float32),
        timeouts=timeouts,
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )


def sampling(window: Window) -> float:
    buffer = replay_buffer(SAMPLING_EPISODES)

    def step() -> int:
        buffer.sample_transition_batch(BATCH_SIZE)
        return BATCH_SIZE

    return steadily(window, step)


def fit(window: Window, config: d3rlpy.base.LearnableConfig) -> float:
    """Updates per second by `fit`; no progress bar, nothing written."""
    buffer = replay_buffer(DEMONSTRATIONS)

    def callback(*_: object) -> None:
        if not window.tick():
            raise WindowOver

    with contextlib.suppress(WindowOver):
        config.create(device=False).fit(
            buffer,
            n_steps=ENDLESS,
            n_steps_per_epoch=ENDLESS,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
            callback=callback,
        )
    return window.rate


def bc(window: Window) -> float:
    """Deterministic cloning: squared error, Adam."""
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(HIDDEN))
    return fit(window, d3rlpy.algos.BCConfig(batch_size=BATCH_SIZE, encoder_factory=encoder))


def td3_bc(window: Window) -> float:
    """TD3+BC with the paper's options, states normalized."""
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(HIDDEN))
    config = d3rlpy.algos.TD3PlusBCConfig(
        batch_size=BATCH_SIZE,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        observation_scaler=d3rlpy.preprocessing.StandardObservationScaler(),
        alpha=2.5,
        update_actor_interval=2,
    )
    return fit(window, config)


def iql(window: Window) -> float:
    """IQL with the paper's options."""
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(HIDDEN))
    config = d3rlpy.algos.IQLConfig(
        batch_size=BATCH_SIZE,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        value_encoder_factory=encoder,
    )
    return fit(window, config)


def cql(window: Window) -> float:
    """CQL with the authors' options for locomotion: no multiplier is learned."""
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(DEEP_HIDDEN))
    config = d3rlpy.algos.CQLConfig(
        batch_size=BATCH_SIZE,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        alpha_learning_rate=0.0,
        alpha_threshold=0.0,
        n_action_samples=SAMPLED_ACTIONS,
    )
    return fit(window, config)


def sac_n(window: Window) -> float:
    """SAC-N, which is its SAC with more critics; EDAC it doesn't have."""
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(DEEP_HIDDEN))
    config = d3rlpy.algos.SACConfig(
        batch_size=BATCH_SIZE, actor_encoder_factory=encoder, critic_encoder_factory=encoder, n_critics=CRITICS
    )
    return fit(window, config)


def rebrac(window: Window) -> float:
    """ReBRAC with the paper's options."""
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(DEEP_HIDDEN))
    normalized = d3rlpy.models.VectorEncoderFactory(hidden_units=list(DEEP_HIDDEN), use_layer_norm=True)
    config = d3rlpy.algos.ReBRACConfig(
        batch_size=LARGE_BATCH_SIZE, actor_encoder_factory=encoder, critic_encoder_factory=normalized
    )
    return fit(window, config)


def decision_transformer(window: Window) -> float:
    """Decision Transformer with the authors' options for locomotion."""
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=[TOKEN_WIDTH], exclude_last_activation=True)
    config = d3rlpy.algos.DecisionTransformerConfig(
        batch_size=WINDOWS,
        context_size=CONTEXT,
        max_timestep=EPISODE_LENGTH,
        num_layers=BLOCKS,
        encoder_factory=encoder,
        optim_factory=d3rlpy.optimizers.GPTAdamWFactory(weight_decay=1e-4, clip_grad_norm=0.25),
    )
    return fit(window, config)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rows = {
        "sampling": sampling,
        "bc": bc,
        "td3-bc": td3_bc,
        "iql": iql,
        "cql": cql,
        "sac-n": sac_n,
        "rebrac": rebrac,
        "dt": decision_transformer,
    }
    main(rows, "d3rlpy")
