"""`offrl datasets`: names, figures, findings and exports, for good datasets and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl.converters.catalog import local_path
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.errors import TrainingInterrupted
from offrl.types import Spec
from offrl_cli.dataset_info import histogram_lines
from tests.cli.conftest import Offrl

REFERENCES = {"random": 1.0, "expert": 9.0}


def write_store(path: Path, rewards: tuple[float, ...] = (1.0, 2.0, 4.0), **columns: Any) -> TrajectoryStore:
    """One episode of two equal rewards for each of `rewards`: its return is twice the reward."""
    episodes = len(rewards)
    final = np.arange(1, episodes + 1) * 3 - 1
    truncated = np.zeros(episodes * 3, np.bool_)
    truncated[final - 1] = True
    reward = np.repeat(np.array(rewards), 3)
    reward[final] = 0.0
    values = {
        "observation": np.arange(episodes * 6, dtype=np.float32).reshape(-1, 2),
        "action": np.zeros((episodes * 3, 1), np.float32),
        "reward": reward,
        "terminated": np.zeros(episodes * 3, np.bool_),
        "truncated": truncated,
    }
    spec = Spec(gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), gym.spaces.Box(-1.0, 1.0, (1,), np.float32))
    provenance = {"made_by": "a test"}
    with StoreWriter(path, spec, environment="Toy-v0", provenance=provenance, reference_scores=REFERENCES) as writer:
        writer.append(EpisodeBlock({**values, **columns}, np.full(episodes, 2)))
    return TrajectoryStore.open(path)


@pytest.fixture
def toy() -> TrajectoryStore:
    """A local dataset named `toy`."""
    return write_store(local_path("toy"))


def test_list_names_local_datasets(offrl: Offrl, toy: TrajectoryStore) -> None:
    (entry,) = [e for e in offrl("datasets", "list", "--json").json["datasets"] if e["name"] == "toy"]
    assert (entry["kind"], entry["environment"], entry["episodes"], entry["steps"]) == ("local", "Toy-v0", 3, 6)
    (row,) = [line for line in offrl("datasets", "list").stdout.splitlines() if line.startswith("toy ")]
    assert row.split() == ["toy", "local", "Toy-v0", "3", "6"]


def test_info_says_what_is_known(offrl: Offrl, toy: TrajectoryStore) -> None:
    info = offrl("datasets", "info", "toy", "--json").json
    assert (info["episodes"], info["transitions"], info["fingerprint"]) == (3, 6, toy.fingerprint)
    assert info["reference_scores"] == REFERENCES
    assert info["provenance"] == {"made_by": "a test"}
    assert info["statistics"]["return"]["mean"] == pytest.approx((2 + 4 + 8) / 3)
    # Twelve ranges of half a unit between 2 and 8: the first, the one from 4 on, and the last hold an episode each.
    assert info["return_histogram"]["counts"] == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert info["return_histogram"]["edges"][:2] == [2.0, 2.5]


def test_info_for_people_has_spaces_statistics_histogram_and_origin(offrl: Offrl, toy: TrajectoryStore) -> None:
    lines = offrl("datasets", "info", "toy").stdout.splitlines()
    assert "observation space  Box(-inf, inf, (2,), float32)" in lines
    # Rows 0, 1, 3, 4, 6, 7 count (2, 5 and 8 are final observations): 1, 3, 7, 9, 13, 15.
    assert ["observation[1]", "8", "5", "1", "15"] in [line.split() for line in lines]
    assert len([line for line in lines if "█" in line]) == 3
    assert "  expert  9" in lines
    assert "  made_by  a test" in lines


def test_histogram_bars_are_in_proportion() -> None:
    lines = list(histogram_lines([4, 0, 1, 400], [0.0, 1.0, 2.0, 3.0, 4.0]))
    assert [line.count("█") for line in lines] == [0, 0, 0, 40]
    assert [line.rstrip().split()[-1] for line in lines] == ["4", "0", "1", "400"]
    assert ["▏" in line for line in lines] == [True, False, True, False]


def test_a_good_dataset_is_valid(offrl: Offrl, toy: TrajectoryStore) -> None:
    result = offrl("datasets", "validate", "toy", "--json")
    assert (result.code, result.json["valid"], result.json["findings"]) == (0, True, [])
    assert "Nothing is wrong with the 3 episodes" in offrl("datasets", "validate", "toy").stdout


def test_a_flipped_bit_is_found_and_named(offrl: Offrl, toy: TrajectoryStore) -> None:
    shard = next((toy.path / "shards").iterdir())
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    result = offrl("datasets", "validate", "toy", "--json")
    assert (result.code, result.json["valid"]) == (1, False)
    assert "shards/00000.arrow" in json.dumps(result.json["findings"])
    table = offrl("datasets", "validate", "toy")
    assert table.code == 1
    assert "shards/00000.arrow" in table.stdout


def test_nan_rewards_and_wild_actions_are_found_with_their_place(offrl: Offrl) -> None:
    action = np.zeros((9, 1), np.float32)
    action[4] = 7.0
    write_store(local_path("bad"), (1.0, 2.0, np.nan), action=action)
    findings = {f["column"]: f for f in offrl("datasets", "validate", "bad", "--json").json["findings"] if f["column"]}
    assert (findings["reward"]["code"], findings["reward"]["episode"]) == ("nan", 2)
    assert (findings["action"]["code"], findings["action"]["episode"], findings["action"]["step"]) == ("bounds", 1, 1)


def wrong_version(store: TrajectoryStore) -> None:
    metadata = store.path / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"schema_version": 1', '"schema_version": 999'))


def cut_shard(store: TrajectoryStore) -> None:
    shard = next((store.path / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:100])


def missing_shard(store: TrajectoryStore) -> None:
    next((store.path / "shards").iterdir()).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [(wrong_version, ["999", "version"]), (cut_shard, ["00000.arrow"]), (missing_shard, ["00000.arrow"])],
)
@pytest.mark.parametrize("command", ["info", "validate", "pull"])
def test_a_damaged_store_is_refused_with_the_file_s_name(
    offrl: Offrl, toy: TrajectoryStore, command: str, damage: Callable[[TrajectoryStore], None], words: list[str]
) -> None:
    damage(toy)
    result = offrl("datasets", command, toy.path, "--json")
    assert (result.code, result.stdout) == (1, "")
    assert all(word in result.stderr for word in words)
    assert "Traceback" not in result.stderr


def test_an_unknown_name_is_answered_with_similar_ones(offrl: Offrl, toy: TrajectoryStore) -> None:
    result = offrl("datasets", "info", "toyy")
    assert result.code == 2
    assert "did you mean toy?" in result.stderr


def test_parquet_goes_out_and_comes_back(offrl: Offrl, toy: TrajectoryStore) -> None:
    exported = offrl("datasets", "export", "toy", "./out/toy", "--json").json
    assert (exported["format"], exported["episodes"]) == ("parquet", 3)
    pulled = offrl("datasets", "pull", "./out/toy", "--json").json
    back = TrajectoryStore.open(Path(pulled["path"]))
    np.testing.assert_array_equal(back.read("observation", 0, 9), toy.read("observation", 0, 9))
    assert back.metadata.reference_scores == REFERENCES
    again = offrl("datasets", "export", "toy", "./out/toy")
    assert again.code == 2
    assert "say --overwrite" in again.stderr
    assert offrl("datasets", "export", "toy", "./out/toy", "--overwrite").code == 0


def test_minari_reads_what_is_exported(offrl: Offrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    store = write_store(tmp_path / "plain")
    with StoreWriter(store.path, store.spec, append=True, environment="Pendulum-v1"):
        pass
    result = offrl("datasets", "export", store.path, "toy/plain-v0", "--format", "minari")
    assert result.code == 0, result.stderr
    assert "Warning" not in result.stderr
    dataset = minari.load_dataset("toy/plain-v0")
    assert dataset.total_episodes == 3
    np.testing.assert_array_equal(dataset[1].rewards, [2.0, 2.0])


@pytest.mark.parametrize("identifier", ["bad", "toy/plain"])
def test_an_id_that_minari_does_not_take_is_refused(
    offrl: Offrl, toy: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identifier: str
) -> None:
    pytest.importorskip("jax")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    result = offrl("datasets", "export", "toy", identifier, "--format", "minari")
    assert result.code == 2, result.stderr
    assert f"'{identifier}'" in result.stderr
    assert "hopper/expert-v0" in result.stderr


def test_make_leaves_a_dataset_that_other_commands_know(offrl: Offrl, tmp_path: Path) -> None:
    recipe = tmp_path / "chance.toml"
    recipe.write_text('# Chance.\n[[sources]]\nkind = "random"\nenv = "CartPole-v1"\nepisodes = 3\n')
    result = offrl("datasets", "make", recipe, "--json")
    assert result.code == 0, result.stderr
    assert (result.json["name"], result.json["episodes"]) == ("chance", 3)
    assert result.json["path"] == str(local_path("chance"))
    assert offrl("datasets", "validate", "chance").code == 0
    assert offrl("datasets", "info", "chance", "--json").json["card"]["description"] == "Chance."
    assert 'description = "Chance."' in offrl("datasets", "info", "chance").stdout

    shown = offrl("datasets", "make", recipe, "--out", "folder").stdout
    assert "episodes         3\n" in shown
    assert offrl("datasets", "info", "./folder", "--json").json["episodes"] == 3
    again = offrl("datasets", "make", recipe, "--out", "folder")
    assert (again.code, again.stdout) == (2, "")
    assert "the destination exists" in again.stderr
    assert offrl("datasets", "make", recipe, "--out", "folder", "--overwrite").code == 0
    assert offrl("datasets", "make", recipe, "--overwrite").code == 0


@pytest.mark.parametrize(("step", "words"), [(None, "Interrupted\n"), (1200, "Saved at step 1,200; the same command")])
def test_an_interrupted_making_says_where_it_stands(
    offrl: Offrl, monkeypatch: pytest.MonkeyPatch, step: int | None, words: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise TrainingInterrupted(None, step)

    monkeypatch.setattr("offrl.make_dataset", interrupted)
    result = offrl("datasets", "make", "hopper-medium")
    assert (result.code, result.stdout) == (130, "")
    assert result.stderr.startswith(words)


def test_list_names_what_can_be_made_unless_it_is_there(offrl: Offrl) -> None:
    listed = offrl("datasets", "list", "--json").json
    there, to_make = ({item["name"] for item in listed[key]} for key in ("datasets", "recipes"))
    assert "hopper-expert" in there
    assert "halfcheetah-medium" in to_make
    assert not there & to_make
    assert all(Path(recipe["path"]).is_file() and recipe["purpose"] for recipe in listed["recipes"])
    assert "halfcheetah-medium" in offrl("datasets", "list").stdout


def test_a_dataset_that_has_only_a_recipe_says_how_it_is_made(offrl: Offrl) -> None:
    result = offrl("datasets", "info", "halfcheetah-medium")
    assert result.code == 2
    assert "offrl datasets make halfcheetah-medium" in result.stderr
    assert "offrl datasets make halfcheetah-medium" in offrl("recipes", "run", "datasets/halfcheetah-medium").stderr


def test_make_refuses_a_dataset_without_a_recipe(offrl: Offrl) -> None:
    result = offrl("datasets", "make", "nosuch")
    assert (result.code, result.stdout) == (2, "")
    assert "hopper-medium" in result.stderr
