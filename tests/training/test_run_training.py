"""Whole runs: what they write, and that stopping and resuming changes nothing."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.config.recipe import Recipe, recipe_from_dict, to_toml
from offrl.converters.catalog import local_path
from offrl.data.store import StoreWriter, TrajectoryStore
from offrl.data.validate import validate
from offrl.envs.make import environment_spec
from offrl.envs.policy import Actor
from offrl.envs.spaces import check_spaces
from offrl.envs.starts import Purpose, Starts
from offrl.errors import (
    DataError,
    DivergenceError,
    EnvironmentFailedError,
    RecipeError,
    RequestError,
    RunError,
    RunInUseError,
    SpaceMismatchError,
)
from offrl.nn.state import state_tensors
from offrl.runs.checkpoint import read_facts, read_part
from offrl.runs.evaluate_run import evaluate_run
from offrl.runs.load import load_policy, resolve_device
from offrl.runs.run import Run
from offrl.training.fast_update import Update, fast_update
from offrl.training.run_training import resume, train
from offrl.types import Agent, Metrics, Spec
from tests.envs.faulty import HANGING, LATE, STUCK, ends
from tests.training.runs import (
    PENDULUM,
    assert_same_tensors,
    bc_recipe,
    last_tensors,
    make_demonstrations,
    start_python,
    td3_recipe,
)

TRAIN = """
import sys, tomllib, torch
from collections.abc import Callable
from pathlib import Path
from offrl.config.recipe import recipe_from_dict
from offrl.training.loop import Interrupted
from offrl.training.fast_update import Update, fast_update
from offrl.runs.listener import SilentListener
from offrl.training.run_training import resume, train
torch.set_num_threads(1)

class Announce(SilentListener):
    def progress(self, step, steps, metrics):
        print(f"step {step}")

recipe, path = recipe_from_dict(tomllib.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2])
try:
    resume(path, Announce()) if (path / "recipe.toml").exists() else train(recipe, path, Announce())
except Interrupted as stop:
    print(f"saved {stop.step}")
"""


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    make_demonstrations(tmp_path / "demonstrations")
    return tmp_path / "demonstrations"


def test_a_folder_named_like_the_dataset_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demonstrations(local_path("walks"))
    (tmp_path / "work" / "walks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    run = train(bc_recipe(Path("walks"), env="none"), tmp_path / "run")
    assert Run.open(run.path).recipe.dataset == "walks"
    assert resume(run.path, steps=130).recipe.dataset == "walks"


def test_a_run_is_not_resumed_to_fewer_steps_than_it_took(demonstrations: Path, tmp_path: Path) -> None:
    run = train(bc_recipe(demonstrations, steps=100), tmp_path / "run")
    with pytest.raises(RequestError, match="taken 100 steps already, and 60 are asked for"):
        resume(run.path, steps=60)
    assert Run.open(run.path).recipe.steps == 100


def test_a_run_holds_all_that_later_commands_read(demonstrations: Path, tmp_path: Path) -> None:
    run = train(bc_recipe(demonstrations), tmp_path / "run")

    assert Run.open(run.path).recipe == dataclasses.replace(bc_recipe(demonstrations), env="Pendulum-v1")
    assert Path(str(run.recipe.dataset)).is_absolute()
    steps = [line["step"] for line in run.lines("metrics.jsonl") if "imitation_loss" in line]
    assert steps == [20, 40, 60, 80, 100, 120]
    (final,) = run.lines("evaluations.jsonl")
    assert final["final"]
    assert np.shape(final["returns"]) == (2, 2)
    assert final["mean_return"] == pytest.approx(np.mean(final["returns"]))
    assert sorted(os.listdir(run.path / "checkpoints")) == ["best-step-120", "index.json", "step-120"]


def test_the_recipe_of_a_run_replays_it(demonstrations: Path, tmp_path: Path) -> None:
    one = train(bc_recipe(demonstrations), tmp_path / "one")
    other = train(Run.open(one.path).recipe, tmp_path / "other")

    assert_same_tensors(one, other)


@pytest.mark.parametrize("algo", ["bc", "td3"])
def test_training_on_equals_training_through(algo: str, demonstrations: Path, tmp_path: Path) -> None:
    """N steps, then resume to 2N, equals 2N: agent, generators, ring and scores, bit for bit."""
    recipe = bc_recipe(demonstrations) if algo == "bc" else td3_recipe()
    through = train(recipe, tmp_path / "through")

    half = (recipe.steps // 2 // recipe.checkpoint_every) * recipe.checkpoint_every
    train(dataclasses.replace(recipe, steps=half), tmp_path / "halves")
    halves = resume(tmp_path / "halves", steps=recipe.steps)

    assert_same_tensors(through, halves)
    assert _without_rates(through) == _without_rates(halves)


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("Pendulum-v1", {}),
        ("Pendulum-v1", {"value_network": True, "dropout": 0.1}),
        # 80 acting steps, less the warm-up, are no multiple of 7: the held exploration must be resumed as well.
        ("Pendulum-v1", {"sde": True, "sde_every": 7}),
        ("CartPole-v1", {}),
    ],
    ids=["plain", "options", "state-dependent exploration", "discrete"],
)
def test_training_sac_on_equals_training_through(env: str, options: dict[str, Any], tmp_path: Path) -> None:
    recipe = td3_recipe(algo="sac", env=env, agent={"hidden": [16, 16], **options})
    through = train(recipe, tmp_path / "through")

    train(dataclasses.replace(recipe, steps=80), tmp_path / "halves")
    halves = resume(tmp_path / "halves", steps=recipe.steps)

    assert_same_tensors(through, halves)


@pytest.mark.parametrize(
    ("algo", "kind", "online"),
    [("sac", "proportional", False), ("sac", "rank", True), ("td3", "rank", False), ("td3", "proportional", True)],
)
def test_priorities_go_on_too(algo: str, kind: str, online: bool, demonstrations: Path, tmp_path: Path) -> None:
    recipe = td3_recipe(
        algo=algo,
        dataset=None if online else str(demonstrations),
        priority={"kind": kind, "importance_steps": 30},
    )
    recipe = dataclasses.replace(recipe, steps=160, evaluation=dataclasses.replace(recipe.evaluation, every=0))
    through = train(recipe, tmp_path / "through")
    train(dataclasses.replace(recipe, steps=80), tmp_path / "halves")
    assert_same_tensors(through, resume(tmp_path / "halves", steps=160))


@pytest.mark.parametrize("algo", ["bc", "td3"])
def test_a_killed_run_ends_as_if_it_had_not_been(algo: str, demonstrations: Path, tmp_path: Path) -> None:
    recipe = bc_recipe(demonstrations) if algo == "bc" else td3_recipe()
    through = train(recipe, tmp_path / "through")

    _kill_after(recipe, tmp_path / "killed", step=recipe.checkpoint_every + recipe.log_every)
    killed = resume(tmp_path / "killed")

    assert_same_tensors(through, killed)
    assert _without_rates(through) == _without_rates(killed)


def test_ctrl_c_saves_and_resuming_goes_on_as_if_nothing_had_been(demonstrations: Path, tmp_path: Path) -> None:
    recipe = bc_recipe(demonstrations, steps=1_000, log_every=20, checkpoint_every=800)
    through = train(recipe, tmp_path / "through")

    process = _start(recipe, tmp_path / "stopped")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            process.send_signal(signal.SIGINT)
            break
    output = process.stdout.read()
    assert process.wait(60) == 0, output
    assert "saved" in output
    stopped = resume(tmp_path / "stopped")

    assert_same_tensors(through, stopped)


@pytest.mark.parametrize(("environment", "processes"), [(STUCK, 1), (HANGING, 2)])
def test_ctrl_c_ends_a_run_whose_environment_hangs(environment: str, processes: int, tmp_path: Path) -> None:
    """In this process, or in another one, which doesn't live on."""
    script = tmp_path / "train.py"
    script.write_text(HANGING_RUN.format(environment=environment, processes=processes, out=str(tmp_path / "run")))
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'cli'}"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "hangs\n"
    workers = _children(process.pid)
    assert len(workers) >= processes - 1
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    output = process.stdout.read()
    process.wait(20)
    assert time.monotonic() - started < 10.0
    assert "interrupted" in output
    assert all(ends(worker, 5.0) for worker in workers)


HANGING_RUN = """
import threading, time
from pathlib import Path
from offrl.config.recipe import recipe_from_dict
from offrl.envs.waiting import WAITING
from offrl.training.run_training import train
from tests.envs import faulty

def watch():
    while WAITING.seconds() < 1.0:
        time.sleep(0.05)
    print("hangs", flush=True)

if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True).start()
    online = {{"environments": 2, "processes": {processes}, "warmup_steps": 50}}
    recipe = {{"algo": "dqn", "env": "{environment}", "steps": 1000, "online": online, "evaluation": {{"every": 0}}}}
    try:
        train(recipe_from_dict(recipe), Path("{out}"))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def _children(process: int) -> list[int]:
    """The processes that one has started."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize("algo", ["bc", "td3"])
def test_two_seeds_at_once_equal_each_alone(algo: str, demonstrations: Path, tmp_path: Path) -> None:
    def recipe(seeds: tuple[int, ...]) -> Recipe:
        made = bc_recipe(demonstrations) if algo == "bc" else td3_recipe()
        return dataclasses.replace(made, seeds=seeds)

    together = _state(train(recipe((3, 5)), tmp_path / "together"))
    for position, seed in enumerate((3, 5)):
        alone = _state(train(recipe((seed,)), tmp_path / f"alone-{seed}"))
        for name, tensor in alone.items():
            other = together[name][position : position + 1] if tensor.dim() else together[name]
            torch.testing.assert_close(tensor, other, rtol=1e-4, atol=1e-5, msg=f"seed {seed}: {name}")


def test_early_stopping_keeps_each_seed_where_it_was_best(demonstrations: Path, tmp_path: Path) -> None:
    """Fitting noise only gets worse on held-out episodes, so patience runs out long before the last step."""
    make_demonstrations(tmp_path / "noise", shuffled=True)
    recipe = bc_recipe(
        tmp_path / "noise",
        steps=20_000,
        agent={"hidden": [64, 64], "learning_rate": 1e-2},
        early_stopping={"every": 20, "patience": 3},
    )
    run = train(recipe, tmp_path / "run")

    losses = np.array([line["validation_loss"] for line in run.lines("metrics.jsonl") if "validation_loss" in line])
    assert len(losses) < 100
    (final,) = run.lines("evaluations.jsonl")
    assert final["checkpoint"] == "best"
    scores = last_tensors(run)["progress/best_scores"].numpy()
    np.testing.assert_allclose(scores, [-_least_before_patience_ran_out(seed, 3) for seed in losses.T], rtol=1e-5)


def test_top_episodes_only(demonstrations: Path, tmp_path: Path) -> None:
    """The store's episodes differ in return; a quarter of eight leaves the two best, one of them held out."""
    recipe = bc_recipe(demonstrations, data={"top_fraction": 0.25, "validation_fraction": 0.5})
    run = train(recipe, tmp_path / "run")

    assert run.has_checkpoint("last")
    whole = train(bc_recipe(demonstrations), tmp_path / "whole")
    normalizers = [last_tensors(each)["normalizer/mean."] for each in (run, whole)]
    assert not torch.equal(*normalizers)


def after_each_update(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Metrics], Metrics]) -> None:
    """Let something happen to the state, or to the metrics, behind every update that the loop makes."""

    def changed_update(agent: Agent[Any, Any], state: Any, device: torch.device) -> Update:
        update = fast_update(agent, state, device)
        return lambda batches, noise: change(state, update(batches, noise))

    monkeypatch.setattr("offrl.training.loop.fast_update", changed_update)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10_000))

    def spoil(state: Any, metrics: Metrics) -> Metrics:
        return {name: value * float("nan") for name, value in metrics.items()} if next(calls) >= 70 else metrics

    after_each_update(monkeypatch, spoil)
    with pytest.raises(DivergenceError, match="'imitation_loss' became nan for seed 0 by step 80"):
        train(bc_recipe(demonstrations), tmp_path / "run")
    assert Run.open(tmp_path / "run").checkpoint("last").name == "step-40"


def test_a_diverged_policy_is_not_kept_as_the_best(
    demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def spoil(state: Any, metrics: Metrics) -> Metrics:
        if next(calls) == 25:
            state.policy.flat.fill_(float("nan"))
        return metrics

    after_each_update(monkeypatch, spoil)
    rarely = {"log_every": 1000, "checkpoint_every": 1000, "data": {"validation_fraction": 0.0}}
    for every, left in ((30, "there is no checkpoint yet"), (10, r"the checkpoint before \(best\)")):
        calls = iter(range(100))
        evaluation = {"every": every, "episodes": 1}
        recipe = bc_recipe(demonstrations, env="Pendulum-v1", evaluation=evaluation, **rarely)
        with pytest.raises(DivergenceError, match=f"policy.* is no longer finite by step 30\n(.*\n)*.*{left}"):
            train(recipe, tmp_path / str(every))
    best = read_part(Run.open(tmp_path / "10").checkpoint("best"), "state")
    assert all(tensor.isfinite().all() for tensor in best.values())


def test_an_environment_with_other_spaces_is_refused_before_anything_is_written(
    demonstrations: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpaceMismatchError, match="CartPole-v1"):
        train(bc_recipe(demonstrations, env="CartPole-v1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


gym.register(
    "offrl-test/NoReward-v0",
    entry_point=lambda: gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda _: float("nan")),
    disable_env_checker=True,
)


def test_a_run_that_could_not_begin_leaves_nothing(tmp_path: Path) -> None:
    """So that the corrected command can use the directory."""
    for number, path in enumerate((tmp_path / "new", tmp_path)):
        (tmp_path / "mine.txt").write_text("there before")
        with pytest.raises(RequestError, match="too small"):
            train(td3_recipe(online={"capacity": 2}), path)
        assert not (path / "recipe.toml").exists()
        assert path.exists() == bool(number)
        assert (tmp_path / "mine.txt").exists()
    train(td3_recipe(steps=40), tmp_path)


def test_a_dataset_without_episodes_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "empty", PENDULUM):
        pass
    with pytest.raises(DataError, match="has no episodes"):
        train(bc_recipe(tmp_path / "empty"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_patience_needs_a_loss_to_validate(tmp_path: Path) -> None:
    make_demonstrations(tmp_path / "data")
    recipe = bc_recipe(tmp_path / "data", algo="td3", agent={}, early_stopping={"patience": 2}, env="none")
    with pytest.raises(RecipeError, match="no validation loss"):
        train(recipe, tmp_path / "run")


def test_priorities_need_an_algorithm_that_tells_its_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="iql has no TD errors to draw by") as raised:
        train(td3_recipe(algo="iql", priority={"kind": "rank"}), tmp_path / "run")
    assert {"dqn", "sac", "td3"} <= set(raised.value.hint.partition("that has: ")[2].split(", "))
    assert not (tmp_path / "run").exists()


def test_a_reward_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailedError, match="the reward nan"):
        train(td3_recipe(env="offrl-test/NoReward-v0"), tmp_path / "run")


def test_an_observation_that_is_not_finite_reaches_no_checkpoint(tmp_path: Path) -> None:
    """Checkpoints of steps 7, 14 and 21 are written; step 24 is the third of an episode."""
    online = {"warmup_steps": 4, "record": True}
    values = {"algo": "dqn", "env": LATE, "steps": 100, "online": online, "checkpoint_every": 7, "batch_size": 4}
    with pytest.raises(EnvironmentFailedError, match="nan"):
        train(recipe_from_dict({**values, "evaluation": {"every": 0}, "agent": {"hidden": [4]}}), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert read_facts(run.checkpoint("last"))["step"] == 21
    for part in ("state", "ring"):
        for name, tensor in read_part(run.checkpoint("last"), part).items():
            assert tensor.isfinite().all(), name
    assert validate(TrajectoryStore.open(run.path / "replay")) == []


def test_too_many_folds_are_refused_before_anything_is_written(demonstrations: Path, tmp_path: Path) -> None:
    recipe = bc_recipe(demonstrations, cross_validation={"kind": "l2", "folds": 9})
    with pytest.raises(RecipeError, match="8 episodes can't be split into 9 folds"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_action_bounds_are_another_space() -> None:
    """A policy's [-1, 1] would be scaled to the wrong torque."""
    weaker = Spec(PENDULUM.observation_space, gym.spaces.Box(-1.0, 1.0, (1,), np.float32))
    check_spaces(PENDULUM, environment_spec("Pendulum-v1"), "Pendulum-v1")
    with pytest.raises(SpaceMismatchError, match="action space of Pendulum-v1"):
        check_spaces(weaker, environment_spec("Pendulum-v1"), "Pendulum-v1")


def test_patience_with_fewer_steps_than_a_validation_takes(demonstrations: Path, tmp_path: Path) -> None:
    recipe = bc_recipe(demonstrations, steps=10, early_stopping={"every": 500, "patience": 2})
    (final,) = train(recipe, tmp_path / "run").lines("evaluations.jsonl")
    assert final["checkpoint"] == "best"


def test_no_environment_means_no_evaluation(demonstrations: Path, tmp_path: Path) -> None:
    run = train(bc_recipe(demonstrations, env="none"), tmp_path / "run")
    assert run.has_checkpoint("last")
    assert run.lines("evaluations.jsonl") == []
    with pytest.raises(RequestError, match="names no environment"):
        evaluate_run(run, episodes=1)


def test_requests_that_can_not_be_met(demonstrations: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="learns from a dataset"):
        train(dataclasses.replace(bc_recipe(demonstrations), dataset=None), tmp_path / "run")
    with pytest.raises(RecipeError, match="neither a dataset nor an environment"):
        train(td3_recipe(env=None), tmp_path / "run")
    with pytest.raises(RecipeError, match="no device 'abacus'"):
        resolve_device("abacus")
    with pytest.raises(RunError, match="no run in this directory"):
        resume(tmp_path / "nowhere")


def test_a_run_in_use_is_left_alone(demonstrations: Path, tmp_path: Path) -> None:
    run = train(bc_recipe(demonstrations), tmp_path / "run")
    with run.lock(), pytest.raises(RunInUseError, match="another process"):
        resume(run.path)
    with pytest.raises(RunError, match="a run in this directory already"):
        train(bc_recipe(demonstrations), run.path)


def test_evaluation_is_the_policy_in_the_environment(demonstrations: Path, tmp_path: Path) -> None:
    """The returns reported are those of stepping the environment by hand with the loaded policy."""
    run = train(bc_recipe(demonstrations), tmp_path / "run")
    scores = evaluate_run(run, episodes=1, seed=3)

    policy, _ = load_policy(run, "last")
    for position, reset_seed in enumerate(Starts(Purpose.FINAL, run.recipe.seeds, 3).reset_seeds(1)):
        env = gym.make("Pendulum-v1")
        observation, _ = env.reset(seed=reset_seed)
        actor, total, done = Actor(policy, 1), 0.0, False
        while not done:
            action = actor.greedy(np.stack([observation, observation]))[position]
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        assert scores["returns"][position][0] == pytest.approx(total, rel=1e-4)


def test_what_is_reported_starts_where_nothing_was_chosen(demonstrations: Path, tmp_path: Path) -> None:
    """Both evaluations at the last step are of one policy; neither checkpoint is judged by what picked the best one."""
    evaluation = {"every": 60, "episodes": 2, "final_episodes": 2}
    run = train(bc_recipe(demonstrations, evaluation=evaluation), tmp_path / "run")
    *on_the_way, at_last, final = run.lines("evaluations.jsonl")
    assert (at_last["step"], final["step"], final["checkpoint"]) == (120, 120, "last")
    assert [line["starts"] for line in (*on_the_way, at_last, final)] == ["progress", "progress", "final"]
    known = {value for line in (*on_the_way, at_last) for returns in line["returns"] for value in returns}
    for kind in ("last", "best"):
        scores = evaluate_run(run, episodes=2, checkpoint=kind)
        assert scores["starts"] == "final"
        assert not known & {value for returns in scores["returns"] for value in returns}
    # Asked for again, it says again what the training said.
    assert evaluate_run(run, episodes=2)["returns"] == final["returns"]


@pytest.mark.learning
def test_cloning_needs_the_pairing_of_observations_and_actions(tmp_path: Path) -> None:
    """The held-out loss after training on demonstrations is far below that after training on shuffled ones."""
    losses = []
    for shuffled in (False, True):
        data = tmp_path / f"data-{shuffled}"
        make_demonstrations(data, episodes=20, shuffled=shuffled)
        recipe = bc_recipe(data, steps=2_000, agent={"hidden": [64, 64]}, early_stopping={"every": 500})
        run = train(recipe, tmp_path / f"run-{shuffled}")
        losses.append([line["validation_loss"] for line in run.lines("metrics.jsonl") if "validation_loss" in line][-1])
    assert max(losses[0]) < 0.01
    assert min(losses[1]) > 0.1


def _least_before_patience_ran_out(losses: np.ndarray, patience: int) -> float:
    """The best loss of a seed on its own, even where another seed kept the run going."""
    best, stale = float("inf"), 0
    for loss in losses:
        best, stale = (loss, 0) if loss < best else (best, stale + 1)
        if stale == patience:
            break
    return best


def _state(run: Run) -> dict[str, torch.Tensor]:
    return state_tensors(load_policy(run, "last")[0].state)


def _without_rates(run: Run) -> list[dict[str, Any]]:
    lines = run.lines("metrics.jsonl") + run.lines("evaluations.jsonl")
    return [{key: value for key, value in line.items() if key != "steps_per_second"} for line in lines]


def _start(recipe: Recipe, path: Path) -> Any:
    recipe_file = path.with_suffix(".toml")
    recipe_file.write_text(to_toml(recipe))
    return start_python(TRAIN, str(recipe_file), str(path))


def _kill_after(recipe: Recipe, path: Path, step: int) -> None:
    process = _start(recipe, path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == f"step {step}":
            break
    process.kill()
    process.wait(60)
    assert Run.open(path).has_checkpoint("last")
