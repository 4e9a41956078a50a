"""One training by d3rlpy, for `tests.benchmarks.beside_d3rlpy`: reads a job, leaves the policy as TorchScript.

    python d3rlpy_training.py JOB

Runs in d3rlpy's environment, which has no offrl.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import structlog


def read_transitions(path: Path, reward_scale: float) -> d3rlpy.dataset.ReplayBuffer:
    """Episodes as d3rlpy keeps them; a truncated one's last row only shows what its last transition led to."""
    with np.load(path) as arrays:
        buffer = d3rlpy.dataset.MDPDataset(
            observations=arrays["observations"],
            actions=arrays["actions"],
            rewards=arrays["rewards"] * np.float32(reward_scale),
            terminals=arrays["terminals"],
            timeouts=arrays["timeouts"],
            action_space=d3rlpy.ActionSpace.CONTINUOUS,
        )
        transitions = int(arrays["transitions"])
    if buffer.transition_count != transitions:
        raise SystemExit(f"d3rlpy sees {buffer.transition_count} transitions where there are {transitions}")
    return buffer


def configured(job: dict[str, Any]) -> d3rlpy.base.LearnableConfig:
    """The algorithm's configuration."""
    options = dict(job["options"])
    for name, encoder in job["encoders"].items():
        options[name] = d3rlpy.models.VectorEncoderFactory(**encoder)
    if job["actor_decay_steps"]:
        schedule = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=job["actor_decay_steps"])
        options["actor_optim_factory"] = d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=schedule)
    if job["actor_weight_decay"]:
        options["actor_optim_factory"] = d3rlpy.optimizers.AdamWFactory(weight_decay=job["actor_weight_decay"])
    if job["normalize"]:
        options["observation_scaler"] = d3rlpy.preprocessing.StandardObservationScaler()
    config: d3rlpy.base.LearnableConfig = getattr(d3rlpy.algos, job["algorithm"])(
        batch_size=job["batch_size"], **options
    )
    return config


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    job = json.loads(Path(sys.argv[1]).read_text())
    d3rlpy.seed(job["seed"])
    learner: Any = configured(job).create(device=False)
    learner.fit(
        read_transitions(Path(job["arrays"]), job["reward_scale"]),
        n_steps=job["steps"],
        n_steps_per_epoch=job["steps"],
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    learner.save_policy(job["policy"])


if __name__ == "__main__":
    main()
