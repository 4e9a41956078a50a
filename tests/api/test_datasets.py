"""Datasets from Python: by name, described, checked, converted, exported, collected, recorded and relabeled."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest

import offrl
from offrl.converters.catalog import local_path, name_of
from offrl.data.store import TrajectoryStore
from offrl.errors import DatasetNotFoundError, RequestError
from offrl.runs.run import Run

LOG = """trial,t,angle,speed,torque,cost,fell,time_up
a,0,0.10,0.0,-0.5,1.0,0,0
a,1,0.08,-0.2,-0.4,0.9,1,0
b,0,-0.20,0.1,0.6,1.2,0,0
b,1,-0.15,0.3,0.2,1.1,0,1
"""
MAPPING = {
    "episode": "trial",
    "step": "t",
    "observation": "angle,speed",
    "action": "torque",
    "reward": "cost",
    "terminated": "fell",
    "truncated": "time_up",
}


def test_datasets_are_opened_described_and_checked(demos: Path) -> None:
    store = offrl.open_dataset(demos)
    assert offrl.open_dataset(store) is store
    about = offrl.describe(demos)
    assert (about["episodes"], about["transitions"], about["environment"]) == (6, 120, "Pendulum-v1")
    assert about["fingerprint"] == store.fingerprint
    assert sum(about["return_histogram"]["counts"]) == 6
    assert offrl.validate(store) == []
    with pytest.raises(DatasetNotFoundError):
        offrl.describe("nowhere")


def test_those_with_a_name_are_listed_and_those_to_be_made() -> None:
    kinds = {entry.name: entry.kind for entry in offrl.list_datasets()}
    assert kinds["hopper-expert"] == "bundled"
    assert kinds["walker2d-expert"] == "recipe"
    (entry,) = [entry for entry in offrl.list_datasets() if entry.name == "walker2d-expert"]
    assert (entry.episodes, entry.environment, entry.path.suffix) == (None, None, ".toml")
    assert entry.card["description"]


def test_logs_are_converted(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    planned = offrl.convert(tmp_path / "log.csv", mapping=MAPPING, dry_run=True, action_bounds=(-1.0, 1.0))
    assert (planned.episodes, planned.written) == (2, None)
    texts = [f"{field}={columns}" for field, columns in MAPPING.items()]
    report = offrl.convert(tmp_path / "log.csv", "my-log", mapping=texts, action_bounds=(-1.0, 1.0))
    assert report.written == str(local_path("my-log"))
    assert offrl.open_dataset("my-log").num_episodes == 2
    with pytest.raises(RequestError, match="no destination"):
        offrl.convert(tmp_path / "log.csv", mapping=MAPPING)


def test_a_store_goes_by_a_name_only_where_that_leads_to_it(tmp_path: Path) -> None:
    offrl.collect(random=True, env="CartPole-v1", episodes=2, out="poles")
    here = offrl.open_dataset("poles")
    assert name_of(here) == "poles"
    offrl.export_dataset(here, tmp_path / "poles")
    offrl.collect(random=True, env="CartPole-v1", episodes=2, out=str(tmp_path / "elsewhere" / "poles"))
    other = offrl.open_dataset(tmp_path / "elsewhere" / "poles")
    assert name_of(other) == str((tmp_path / "elsewhere" / "poles").resolve())
    assert name_of(offrl.open_dataset("cartpole-expert")) == "cartpole-expert"


def test_datasets_are_exported(demos: Path, tmp_path: Path) -> None:
    assert offrl.export_dataset(demos, tmp_path / "parquet") == tmp_path / "parquet"
    assert offrl.open_dataset(tmp_path / "parquet").num_episodes == 6
    with pytest.raises(RequestError, match="excel"):
        offrl.export_dataset(demos, tmp_path / "x", "excel")  # type: ignore[arg-type]


def test_episodes_of_a_run_are_collected(run: Run) -> None:
    report = offrl.collect(run, episodes=2, out="cloned")
    assert report["episodes"] == 2
    assert offrl.open_dataset("cloned").num_steps == 400
    with pytest.raises(RequestError, match="destination exists"):
        offrl.collect(run, episodes=2, out="cloned")
    with pytest.raises(RequestError, match="no run is named"):
        offrl.collect(episodes=2, out="other")
    with pytest.raises(RequestError, match="doesn't go with RUN"):
        offrl.collect(run, random=True, episodes=2, out="other")


@pytest.mark.parametrize("as_object", [False, True])
def test_what_somebody_does_is_recorded(as_object: bool) -> None:
    given = gym.make("CartPole-v1") if as_object else "CartPole-v1"
    with offrl.record(given, "my-demos", source="a script") as env:
        observation, _ = env.reset(seed=1)
        done = False
        while not done:
            observation, _, terminated, truncated, _ = env.step(int(observation[2] > 0.0))
            done = terminated or truncated
    store = offrl.open_dataset("my-demos")
    assert (store.num_episodes, store.metadata.environment) == (1, "CartPole-v1")
    assert store.episode(0).source == "a script"
    with offrl.record("CartPole-v1", "my-demos", append=True) as env:
        env.reset()
        env.step(0)
    assert TrajectoryStore.open(local_path("my-demos")).num_episodes == 2
    with pytest.raises(RequestError, match="NoSuch"):
        offrl.record("NoSuch-v0", "other")


def test_rewards_are_relabeled(tmp_path: Path) -> None:
    offrl.collect(optimal=True, env="CliffWalking-v1", episodes=20, out="walks")
    run = offrl.train("irl", dataset="walks", steps=20, out=tmp_path / "run", progress=False)
    report = offrl.relabel(offrl.open_dataset("walks"), reward=run, out="learned")
    assert (report["episodes"], report["source"]) == (20, "walks")
    assert offrl.open_dataset("learned").num_episodes == 20


def test_a_dataset_is_made_by_its_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "poles.toml"
    recipe.write_text('[[sources]]\nkind = "random"\nenv = "CartPole-v1"\nepisodes = 3\n')
    report = offrl.make_dataset(recipe, progress=False)
    assert (report["name"], report["episodes"]) == ("poles", 3)
    assert offrl.open_dataset("poles").num_episodes == 3
