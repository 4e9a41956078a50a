"""d3rlpy: its replay buffer, and behavior cloning and TD3+BC by its own `fit`."""

from __future__ import annotations

import contextlib
import logging

import d3rlpy
import numpy as np
import structlog
from measuring import (
    BATCH_SIZE,
    DEMONSTRATIONS,
    ENDLESS,
    HIDDEN,
    SAMPLING_EPISODES,
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


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    main({"sampling": sampling, "bc": bc, "td3-bc": td3_bc}, "d3rlpy")
