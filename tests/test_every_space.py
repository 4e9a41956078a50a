"""Every kind of space, as observation and as action, through every command: it works, or is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offrl
from offrl import plugins
from offrl.errors import OffrlError, RequestError
from offrl.runs.run import Run
from tests.envs.any_space import KINDS, LENGTH, environment_of

OBSERVED = [kind for kind in KINDS if kind not in ("text", "graph", "sequence", "one-of")]
ACTED_IN = [
    *("box", "box-float64", "box-scalar", "box-matrix", "box-below", "box-above", "box-unbounded", "box-mixed"),
    *("discrete", "discrete-start", "multi-discrete", "multi-discrete-start", "multi-discrete-matrix"),
]
WORKING = [("observation", kind) for kind in OBSERVED] + [("action", kind) for kind in ACTED_IN]
REFUSED = [("observation", kind) for kind in KINDS if kind not in OBSERVED]
REFUSED += [("action", kind) for kind in KINDS if kind not in ACTED_IN]

SMALL = {"checkpoint_every": 1_000, "log_every": 8, "evaluation.every": 0, "evaluation.final_episodes": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "bc": {"batch_size": 4, "agent.hidden": [4]},
    "bcq": {"batch_size": 4, "agent.hidden": [4]},
    "bc-rnn": {"batch_size": 4, "agent.width": 4, "agent.context": 2},
    "bc-transformer": {"batch_size": 4, "agent.width": 8, "agent.layers": 1, "agent.context": 2},
    "dt": {"batch_size": 4, "agent.width": 8, "agent.layers": 1, "agent.context": 2},
    "ppo": {"agent.rollout_steps": 4, "agent.minibatch_size": 4, "agent.hidden": [4]},
    "dqn": {"batch_size": 4, "agent.hidden": [4], "online.warmup_steps": 4},
    "qrdqn": {"batch_size": 4, "agent.hidden": [4], "agent.quantiles": 3, "online.warmup_steps": 4},
    "sac": {"batch_size": 4, "agent.hidden": [4], "online.warmup_steps": 4},
    "td3": {"batch_size": 4, "agent.hidden": [4], "online.warmup_steps": 4},
    "iql": {"batch_size": 4, "agent.hidden": [4]},
    "gail": {"agent.generator_options": {"rollout_steps": 4, "minibatch_size": 4, "hidden": [4]}},
    "airl": {"agent.generator_options": {"rollout_steps": 4, "minibatch_size": 4, "hidden": [4]}},
    "sqil": {"batch_size": 4, "online.warmup_steps": 4},
}
FROM_DATA = ("bc", "bc-rnn", "bc-transformer", "bcq", "dt", "iql", "gail", "airl", "sqil")


def environment(role: str, kind: str) -> str:
    return environment_of(**{role: kind})


def trained(algo: str, environment: str, out: Path) -> Run:
    data = {"dataset": "logged"} if algo in FROM_DATA else {}
    return offrl.train(algo, env=environment, steps=8, out=out, progress=False, settings=SMALL | OPTIONS[algo], **data)


def try_everything(run: Run) -> None:
    """What can be done with a run."""
    spec = run.policy().policy.agent.spec
    assert run.evaluate(2)["mean_return"] == LENGTH
    assert spec.action_space.contains(_as(spec.action_space, run.policy()(spec.observation_space.sample())))
    assert offrl.export(run, "torchscript").difference == pytest.approx(0.0, abs=1e-4)
    offrl.collect(run, episodes=2, out="own", stochastic=True, overwrite=True)
    assert offrl.validate("own") == []
    offrl.ope(run, dataset="logged", estimators=["fqe"], fqe_steps=4, resamples=50)
    if "behavior_log_prob" in offrl.open_dataset("own").columns:
        # Its own log is worth what it earned: every weight is one.
        (valued,) = on_its_own_log(run).policies
        assert valued.estimate("is").value == pytest.approx(LENGTH, rel=1e-3)
    else:
        with pytest.raises(RequestError, match="have no density"):
            on_its_own_log(run)


def on_its_own_log(run: Run) -> Any:
    return offrl.ope(run, dataset="own", stochastic=True, estimators=["is"], discount=1.0, resamples=50)


def _as(space: Any, action: Any) -> Any:
    return np.asarray(action, space.dtype) if space.shape else space.dtype.type(action)


@pytest.mark.parametrize(("role", "kind"), WORKING)
def test_what_works_does_so_everywhere(role: str, kind: str, tmp_path: Path) -> None:
    name = environment(role, kind)
    offrl.collect(random=True, env=name, episodes=4, out="logged")
    assert offrl.validate("logged") == []
    try_everything(trained("bc", name, tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("algo", sorted(set(OPTIONS) - {"bc"}))
@pytest.mark.parametrize(("role", "kind"), WORKING)
def test_each_algorithm_works_or_refuses(role: str, kind: str, algo: str, tmp_path: Path) -> None:
    takes = plugins.algorithms[algo].learner(plugins.algorithms[algo].options({})).actions
    name = environment(role, kind)
    if role == "observation" and "discrete" not in takes:
        name = environment_of(observation=kind, action="box")
    offrl.collect(random=True, env=name, episodes=4, out="logged")
    try:
        run = trained(algo, name, tmp_path / "run")
    except OffrlError as error:
        (assert_blind if role == "observation" else assert_refused)(error, kind)
        assert not (tmp_path / "run").exists()
        return
    try_everything(run)
    if algo in ("dqn", "ppo", "qrdqn", "sac", "td3"):
        tuned = offrl.finetune(run, env=name, steps=8, out=tmp_path / "tuned", progress=False, settings=SMALL)
        assert tuned.evaluate(1)["mean_return"] == LENGTH


@pytest.mark.parametrize(("role", "kind"), REFUSED)
def test_what_does_not_is_refused_at_once(role: str, kind: str, tmp_path: Path, offrl_home: Path) -> None:
    name = environment(role, kind)
    with pytest.raises(OffrlError) as refused:
        offrl.collect(random=True, env=name, episodes=4, out="logged")
    assert_refused(refused.value, kind)
    assert name in str(refused.value)
    for algo in ("dqn", "ppo") if role == "observation" else ("dqn", "ppo", "sac", "td3"):
        with pytest.raises(OffrlError) as refused:
            trained(algo, name, tmp_path / "run")
        assert_refused(refused.value, kind)
    assert not (tmp_path / "run").exists()
    assert [path.name for path in offrl_home.rglob("*") if path.is_file()] == []


def assert_blind(error: OffrlError, kind: str) -> None:
    """It has no encoder for the images that it would see, and says who has."""
    assert kind.startswith("image")
    assert "has no encoder for images" in str(error)
    assert error.hint
    assert "bc" in error.hint


def assert_refused(error: OffrlError, kind: str) -> None:
    """It says which space, and which others would do."""
    assert error.exit_code == 2
    assert type(KINDS[kind]).__name__ in str(error)
    assert error.hint
