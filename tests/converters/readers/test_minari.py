"""Minari datasets, made by Minari itself: everything that it reads back is in the store."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from numpy.typing import NDArray

from offrl.converters import ConvertOptions, convert, plan_conversion
from offrl.converters.readers import block_builder
from offrl.converters.readers.hdf5_index import DirectFile, UnusualLayout
from offrl.data.schema import flatten_value
from offrl.data.store import TrajectoryStore
from offrl.errors import DataError, SourceError, SpaceMismatchError

FORMATS = ["hdf5", "arrow", "parquet"]
NESTED = spaces.Dict(
    {
        "joints": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(4)]),
        "flags": spaces.MultiBinary(3),
        "small": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    }
)


@pytest.fixture(autouse=True)
def minari_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari misses authors and the like
        yield tmp_path / "minari"


def buffers(
    lengths: list[int], observation_space: gym.Space[Any], action_space: gym.Space[Any], **infos: Any
) -> list[EpisodeBuffer]:
    """Random episodes; the first terminates, the second is truncated, and so on in turn."""
    observation_space.seed(0)
    action_space.seed(0)
    rng = np.random.default_rng(0)
    made = []
    for index, length in enumerate(lengths):
        last = np.arange(length) == length - 1
        made.append(
            EpisodeBuffer(
                id=index,
                seed=100 + index,
                observations=_stack(observation_space, [observation_space.sample() for _ in range(length + 1)]),
                actions=_stack(action_space, [action_space.sample() for _ in range(length)]),
                rewards=list(rng.standard_normal(length)),
                terminations=list(last & (index % 2 == 0)),
                truncations=list(last & (index % 2 == 1)),
                infos={key: make(length + 1) for key, make in infos.items()} or None,
            )
        )
    return made


def _stack(space: gym.Space[Any], items: list[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _stack(child, [item[key] for item in items]) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_stack(child, [item[i] for item in items]) for i, child in enumerate(space.spaces))
    return items if isinstance(space, spaces.Text) else np.array(items)


def make(
    name: str,
    lengths: list[int],
    observation_space: gym.Space[Any] = NESTED,
    action_space: gym.Space[Any] | None = None,
    *,
    format: str = "hdf5",
    jpeg: bool = True,
    **infos: Any,
) -> minari.MinariDataset:
    actions = action_space or spaces.Box(-1, 1, (2,), np.float32)
    return minari.create_dataset_from_buffers(
        name,
        buffers(lengths, observation_space, actions, **infos),
        observation_space=observation_space,
        action_space=actions,
        data_format=format,
        jpeg_encoding=jpeg,
    )


def assert_same(store: TrajectoryStore, dataset: minari.MinariDataset) -> None:
    """The store holds what Minari's own reader gives, bit for bit."""
    assert store.num_episodes == dataset.total_episodes
    for index, read in enumerate(dataset.iterate_episodes()):
        episode = store.episode(index)
        for name, values in (("observations", read.observations), ("actions", read.actions)):
            space = getattr(dataset, f"{name[:-1]}_space")
            ours = flatten_value(space, getattr(episode, name[:-1]), "")
            for key, array in flatten_value(space, values, "").items():
                np.testing.assert_array_equal(ours[key], array)
        np.testing.assert_array_equal(episode.reward, read.rewards)
        np.testing.assert_array_equal(episode.terminated, read.terminations)
        np.testing.assert_array_equal(episode.truncated, read.truncations)


@pytest.mark.parametrize("format", FORMATS)
def test_nested_spaces_in_every_format(tmp_path: Path, format: str) -> None:
    dataset = make("toy/nested-v0", [3, 1, 5], format=format)
    report = convert("minari:toy/nested-v0", tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert_same(store, dataset)
    assert store.spec.observation_space == NESTED
    assert store.episodes.seed.tolist() == [100, 101, 102]
    assert store.episodes.source(2) == "toy/nested-v0#2"
    assert (report.rows, report.steps, report.terminated, report.truncated, report.cut) == (9, 9, 2, 1, 0)


@pytest.mark.parametrize("format", FORMATS)
def test_episodes_come_in_the_order_of_their_numbers(tmp_path: Path, format: str) -> None:
    dataset = make("toy/many-v0", list(range(1, 13)), spaces.Box(-1, 1, (3,), np.float32), format=format)
    convert("minari:toy/many-v0", tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.episodes.length.tolist() == list(range(1, 13))  # as text, 10 would come before 2
    assert_same(store, dataset)


@pytest.mark.parametrize("format", ["hdf5", "arrow"])
def test_small_blocks_change_nothing(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_builder, "BLOCK_BYTES", 2000)
    dataset = make("toy/blocks-v0", [3, 40, 1, 5, 2, 9], format=format)
    convert("minari:toy/blocks-v0", tmp_path / "store")
    assert_same(TrajectoryStore.open(tmp_path / "store"), dataset)


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([2, 5]),
        spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (1,))]),
    ],
    ids=str,
)
def test_kinds_of_actions(tmp_path: Path, action_space: gym.Space[Any]) -> None:
    for format in FORMATS:
        dataset = make(f"toy/{format}-v0", [2, 3], spaces.Discrete(6), action_space, format=format)
        convert(f"minari:toy/{format}-v0", tmp_path / format)
        assert_same(TrajectoryStore.open(tmp_path / format), dataset)


def test_a_collector_in_an_environment(tmp_path: Path) -> None:
    collector = minari.DataCollector(gym.make("CartPole-v1"), record_infos=True)
    for seed in (3, 4):
        collector.reset(seed=seed)
        done = False
        while not done:
            *_, terminated, truncated, _ = collector.step(seed % 2)
            done = terminated or truncated
    dataset = collector.create_dataset("cartpole/still-v0", algorithm_name="none", description="Pushes one way.")
    convert("minari:cartpole/still-v0", tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert_same(store, dataset)
    assert store.metadata.environment == "CartPole-v1"
    assert store.episodes.seed.tolist() == [3, 4]
    assert store.metadata.provenance["minari"]["description"] == "Pushes one way."


@pytest.mark.parametrize("format", ["hdf5", "arrow"])
def test_compressed_images_are_decoded_and_said(tmp_path: Path, format: str) -> None:
    space = spaces.Box(0, 255, (32, 40, 3), np.uint8)
    dataset = make("toy/images-v0", [2, 1], space, format=format)
    report = convert("minari:toy/images-v0", tmp_path / "store")
    assert_same(TrajectoryStore.open(tmp_path / "store"), dataset)
    assert any("JPEG" in warning for warning in report.warnings)

    exact = make("toy/exact-v0", [2, 1], space, format=format, jpeg=False)
    report = convert("minari:toy/exact-v0", tmp_path / "exact")
    assert_same(TrajectoryStore.open(tmp_path / "exact"), exact)
    assert not report.warnings


def test_infos(tmp_path: Path) -> None:
    make(
        "toy/infos-v0",
        [2, 3],
        spaces.Box(-1, 1, (3,)),
        speed=lambda rows: np.arange(rows, dtype=np.float32),
        body=lambda rows: {"mass": np.full((rows, 2), 7)},
        word=lambda rows: ["x"] * rows,
        short=lambda rows: np.zeros(rows - 1),
        behavior_log_prob=lambda rows: np.full(rows, -0.5),
        action_mask=lambda rows: np.ones((rows, 4), np.bool_),
    )
    report = convert("minari:toy/infos-v0", tmp_path / "store", options=ConvertOptions(mapping={"info.body.mass": ""}))
    store = TrajectoryStore.open(tmp_path / "store")
    extras = store.episode(1).extras
    assert set(extras) == {"info.speed", "behavior_log_prob", "action_mask"}
    assert extras["info.speed"].tolist() == [0, 1, 2, 3]
    assert extras["behavior_log_prob"].tolist() == [-0.5] * 3
    assert extras["action_mask"].shape == (4, 4)
    reasons = " ".join(item.reason for item in report.dropped)
    assert "infos/word': not numbers" in reasons
    assert "infos/short" in reasons
    assert "infos/body/mass': not wanted" in reasons
    all_left_out = convert("minari:toy/infos-v0", tmp_path / "x", options=ConvertOptions(mapping={"info": ""}))
    assert not any(name.startswith("info.") for name in all_left_out.columns)


@pytest.mark.parametrize("format", ["hdf5", "arrow"])
def test_an_info_that_an_episode_lacks_is_filled_and_said(tmp_path: Path, format: str) -> None:
    space, actions = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))
    make_infos = {"speed": lambda rows: [0.5] * rows, "count": lambda rows: [3] * rows}
    first, second = buffers([2, 2], space, actions, **make_infos)
    second.infos.pop("speed")
    second.infos.pop("count")
    second.infos["other"] = [0.0] * 3
    minari.create_dataset_from_buffers(
        "toy/lacks-v0", [first, second], observation_space=space, action_space=actions, data_format=format
    )
    report = convert("minari:toy/lacks-v0", tmp_path / "store")
    extras = TrajectoryStore.open(tmp_path / "store").episode(1).extras
    assert np.isnan(extras["info.speed"]).all()
    assert extras["info.count"].tolist() == [0, 0, 0]
    said = [warning for warning in report.warnings if "episode 1" in warning or "/1" in warning]
    assert [warning.split(" ")[0] for warning in said] == ["episodes", "episodes", "the"]
    assert "the info.speed holds NaN" in said[2]


def test_a_mask_that_forbids_what_was_done_can_be_left_out(tmp_path: Path) -> None:
    """As Taxi's does: it marks actions without effect, and random policies take them."""
    space, actions = spaces.Discrete(5), spaces.Discrete(3)

    def masks(rows: int) -> NDArray[np.int8]:
        return np.tile(np.array([1, 0, 0], np.int8), (rows, 1))

    logged = buffers([2, 2], space, actions, action_mask=masks)
    taken = [replace(item, actions=np.full(2, action)) for item, action in zip(logged, (0, 1), strict=True)]
    minari.create_dataset_from_buffers("toy/taxi-v0", taken, observation_space=space, action_space=actions)
    with pytest.raises(DataError, match="action_mask forbids the action taken") as raised:
        convert("minari:toy/taxi-v0", tmp_path / "store")
    assert "episode 1, step 0, column 'infos/action_mask'" in raised.value.where
    assert "--map action_mask=" in raised.value.hint
    report = plan_conversion("minari:toy/taxi-v0", options=ConvertOptions(mapping={"action_mask": ""}))
    assert (report.steps, "action_mask" in report.columns) == (4, False)


def test_texts_are_left_out_of_observations(tmp_path: Path) -> None:
    space = spaces.Dict({"state": spaces.Box(-1, 1, (2,)), "mission": spaces.Text(5)})
    make("toy/mission-v0", [2, 2], space)
    report = convert("minari:toy/mission-v0", tmp_path / "store")
    assert TrajectoryStore.open(tmp_path / "store").spec.observation_space == spaces.Dict(
        {"state": spaces.Box(-1, 1, (2,))}
    )
    assert any("observation.mission" in item.reason for item in report.dropped)
    make("toy/words-v0", [2, 2], spaces.Text(5))
    with pytest.raises(SourceError, match="text"):
        plan_conversion("minari:toy/words-v0")


def test_an_episode_without_a_flag_at_its_end_was_cut(tmp_path: Path) -> None:
    space, actions = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))
    made = buffers([2, 2], space, actions)
    made[1].truncations[-1] = False
    minari.create_dataset_from_buffers("toy/cut-v0", made, observation_space=space, action_space=actions)
    report = convert("minari:toy/cut-v0", tmp_path / "store")
    assert (report.truncated, report.cut) == (1, 1)
    assert TrajectoryStore.open(tmp_path / "store").episode(1).truncated.tolist() == [False, True]


def test_reference_scores_come_with_the_dataset(tmp_path: Path, minari_home: Path) -> None:
    make("toy/scores-v0", [2], spaces.Box(-1, 1, (3,)))
    path = minari_home / "toy" / "scores-v0" / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ref_min_score": 1.0, "ref_max_score": 3.0}))
    convert("minari:toy/scores-v0", tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.normalized_score(2.0) == 50.0
    assert "Minari" in store.metadata.reference_scores["measured_on"]


def test_the_folder_itself_may_be_named(tmp_path: Path, minari_home: Path) -> None:
    dataset = make("toy/folder-v0", [2, 3])
    for path in (minari_home / "toy" / "folder-v0", minari_home / "toy" / "folder-v0" / "data"):
        convert(path, tmp_path / path.name)
        assert_same(TrajectoryStore.open(tmp_path / path.name), dataset)


def test_an_environment_with_other_spaces_is_refused() -> None:
    make("toy/spaces-v0", [2], spaces.Box(-1, 1, (3,)))
    with pytest.raises(SpaceMismatchError, match="Pendulum-v1"):
        plan_conversion("minari:toy/spaces-v0", options=ConvertOptions(environment="Pendulum-v1"))


def _other_length(file: h5py.File) -> None:
    del file["episode_1/actions"]
    file["episode_1/actions"] = np.zeros((5, 2), np.float32)


def _other_precision(file: h5py.File) -> None:
    del file["episode_1/actions"]
    file["episode_1/actions"] = np.zeros((3, 2), np.float64)


def _no_actions(file: h5py.File) -> None:
    del file["episode_1/actions"]


def _no_rewards(file: h5py.File) -> None:
    del file["episode_1/rewards"]


def _gap_in_rewards(file: h5py.File) -> None:
    file["episode_1/rewards"][2] = np.nan


def _flag_inside(file: h5py.File) -> None:
    file["episode_1/terminations"][0] = True


def _flag_of_two(file: h5py.File) -> None:
    for name in ("episode_0", "episode_1"):
        flags = file[f"{name}/truncations"][()].astype(np.int64)
        del file[f"{name}/truncations"]
        file[f"{name}/truncations"] = 2 * flags


def _episode_elsewhere(file: h5py.File) -> None:
    del file["episode_1"]
    file["episode_1"] = h5py.ExternalLink("elsewhere.hdf5", "/episode_0")


def _actions_elsewhere(file: h5py.File) -> None:
    del file["episode_1/actions"]
    file["episode_1/actions"] = h5py.ExternalLink("elsewhere.hdf5", "/episode_0/actions")


def _observations_elsewhere(file: h5py.File) -> None:
    del file["episode_0/observations"]
    file["episode_0"].create_dataset("observations", (3, 3), "f4", external=[("elsewhere", 0, 36)])


def _rewards_elsewhere(file: h5py.File) -> None:
    del file["episode_1/rewards"]
    file["episode_1"].create_dataset("rewards", (3,), "f8", external=[("elsewhere", 0, 24)])


def _rewards_without_end(file: h5py.File) -> None:
    del file["episode_1/rewards"]
    file["episode_1"].create_dataset("rewards", (2**40,), "f8", chunks=(2**10,))


def _no_episodes(file: h5py.File) -> None:
    for key in list(file):
        del file[key]


@pytest.mark.parametrize(
    ("damage", "error", "says", "where"),
    [
        (_other_length, DataError, r"'actions' has the shape \(5, 2\)", "episode 1"),
        (_other_precision, DataError, "'actions' holds float64", "episode 1"),
        (_no_actions, SourceError, "no 'actions'", "episode 1"),
        (_no_rewards, SourceError, "no 'rewards'", "episode 1"),
        (_gap_in_rewards, DataError, "reward", "episode 1, step 2"),
        (_flag_inside, DataError, "goes on", "episode 1, step 0"),
        (_flag_of_two, DataError, "'truncations' holds 2, which is neither", "episode 1, step 2"),
        (_episode_elsewhere, SourceError, "'episode_1' is a link", "main_data.hdf5"),
        (_actions_elsewhere, SourceError, "'actions' is a link", "main_data.hdf5"),
        (_observations_elsewhere, SourceError, "'observations' lies in external storage", "main_data.hdf5"),
        (_rewards_elsewhere, SourceError, "'rewards' lies in external storage", "main_data.hdf5"),
        (_rewards_without_end, SourceError, "bytes declare", "main_data.hdf5"),
        (_no_episodes, SourceError, "no episodes", "main_data.hdf5"),
    ],
)
def test_a_wrong_dataset_is_refused(  # type: ignore[no-untyped-def]
    tmp_path: Path, minari_home: Path, damage, error: type[Exception], says: str, where: str
) -> None:
    make("toy/wrong-v0", [2, 3], spaces.Box(-1, 1, (3,), np.float32))
    with h5py.File(minari_home / "toy" / "wrong-v0" / "data" / "main_data.hdf5", "a") as file:
        damage(file)
    with pytest.raises(error, match=says) as raised:
        convert("minari:toy/wrong-v0", tmp_path / "store")
    assert where in raised.value.where  # type: ignore[attr-defined]
    assert not (tmp_path / "store").exists()


def test_files_that_are_cut_or_missing(tmp_path: Path, minari_home: Path) -> None:
    make("toy/broken-v0", [2, 30])
    data = minari_home / "toy" / "broken-v0" / "data"
    whole = (data / "main_data.hdf5").read_bytes()
    (data / "main_data.hdf5").write_bytes(whole[:-5000])
    with pytest.raises(SourceError, match="cut short"):
        convert("minari:toy/broken-v0", tmp_path / "store")
    (data / "main_data.hdf5").unlink()
    with pytest.raises(SourceError, match="data file is missing"):
        convert("minari:toy/broken-v0", tmp_path / "store")
    (data / "metadata.json").write_text('{"data_format": "hdf5"')
    with pytest.raises(SourceError, match="metadata"):
        convert(data.parent, tmp_path / "store", format="minari")

    make("toy/arrows-v0", [2, 3], format="arrow")
    shutil.rmtree(minari_home / "toy" / "arrows-v0" / "data" / "1")
    (minari_home / "toy" / "arrows-v0" / "data" / "1").mkdir()
    with pytest.raises(SourceError, match="no data file"):
        convert("minari:toy/arrows-v0", tmp_path / "store")


def test_the_library_reads_what_is_laid_out_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make("toy/other-v0", [2, 3])

    def refuse(*_: Any) -> None:
        raise UnusualLayout

    for method in ("members", "array"):
        with monkeypatch.context() as patch:
            patch.setattr(DirectFile, method, refuse)
            convert("minari:toy/other-v0", tmp_path / method)
        assert_same(TrajectoryStore.open(tmp_path / method), dataset)


def test_rewards_that_are_whole_in_the_first_episode_only(tmp_path: Path) -> None:
    space, actions = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))
    made = buffers([2, 2], space, actions)
    made[0].rewards[:] = [1, 2]
    made[1].rewards[:] = [0.25, 0.5]
    minari.create_dataset_from_buffers("toy/whole-v0", made, observation_space=space, action_space=actions)
    convert("minari:toy/whole-v0", tmp_path / "store")
    assert TrajectoryStore.open(tmp_path / "store").episode(1).reward.tolist() == [0.25, 0.5]


@pytest.mark.parametrize("missing", ["observation_space", "action_space"])
def test_no_environment_is_made_because_the_metadata_names_one(tmp_path: Path, minari_home: Path, missing: str) -> None:
    make("toy/plain-v0", [3, 2])
    path = minari_home / "toy/plain-v0/data/metadata.json"
    metadata = json.loads(path.read_text())
    ran = tmp_path / "ran"
    spec = gym.envs.registration.EnvSpec("Evil-v0", entry_point="os:system", kwargs={"command": f"touch {ran}"})
    metadata["env_spec"] = spec.to_json()
    del metadata[missing]
    path.write_text(json.dumps(metadata))
    with pytest.raises(SourceError, match=f"no {missing.replace('_', ' ')}") as refused:
        plan_conversion("minari:toy/plain-v0")
    assert "Evil-v0" in str(refused.value)
    assert not ran.exists()


def test_the_environment_that_the_user_names_has_the_missing_spaces(minari_home: Path) -> None:
    env = gym.make("Pendulum-v1")
    make("toy/pendulum-v0", [3, 2], env.observation_space, env.action_space)
    path = minari_home / "toy/pendulum-v0/data/metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["observation_space"], metadata["action_space"]
    path.write_text(json.dumps(metadata))
    report = plan_conversion("minari:toy/pendulum-v0", options=ConvertOptions(environment="Pendulum-v1"))
    assert (report.steps, report.environment) == (5, "Pendulum-v1")
    assert report.spec.observation_space == env.observation_space
