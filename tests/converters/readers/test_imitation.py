"""Trajectories of the imitation package, in files as it writes them: T + 1 observations, one flag for every end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gymnasium import spaces

from offrl.converters import ConvertOptions, convert, plan_conversion
from offrl.converters.formats import detect
from offrl.data.store import TrajectoryStore
from offrl.data.validate import validate
from offrl.errors import DataError, OffrlError, RequestError, SourceError

NOT_LIMITED = ConvertOptions(mapping={"truncated": ""})
LAYOUTS = ("npz", "folder")


def trajectory(number: int, steps: int, *, terminal: bool = True, limit: bool | None = None) -> dict[str, Any]:
    """One trajectory of numbers that occur nowhere else; `limit` is what its infos say of a time limit."""
    info: dict[str, Any] = {"py/object": "os.system", "note": number}

    def struck(row: int) -> dict[str, bool]:
        return {} if limit is None else {"TimeLimit.truncated": limit and row == steps - 1}

    return {
        "obs": np.array([[number, row] for row in range(steps + 1)], np.float32),
        "acts": np.array([row % 3 for row in range(steps)], np.int64),
        "rews": np.array([number + row / 8 for row in range(steps)], np.float32),
        "terminal": terminal,
        "infos": [info | struck(row) for row in range(steps)],
    }


class Bomb:
    """Goes off where a pickle is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def write_npz(path: Path, trajectories: list[dict[str, Any]]) -> Path:
    """As the package's versions before 0.4 did: all trajectories joined, infos as an array of objects."""
    infos = np.empty(sum(len(item["acts"]) for item in trajectories), object)
    infos[:] = [Bomb() for _ in infos]
    arrays = {
        "obs": np.concatenate([item["obs"] for item in trajectories]),
        "acts": np.concatenate([item["acts"] for item in trajectories]),
        "infos": infos,
        "terminal": np.array([item["terminal"] for item in trajectories]),
        "indices": np.cumsum([len(item["acts"]) for item in trajectories[:-1]]),
    }
    if "rews" in trajectories[0]:
        arrays["rews"] = np.concatenate([item["rews"] for item in trajectories])
    np.savez_compressed(path, **arrays)
    return path


def write_folder(path: Path, trajectories: list[dict[str, Any]], files: int = 1) -> Path:
    """As `datasets.Dataset.save_to_disk` does: streams of record batches, nested lists, infos pickled as JSON."""
    path.mkdir(parents=True)
    keys = [key for key in ("obs", "acts", "infos", "terminal", "rews") if key in trajectories[0]]
    columns: dict[str, Any] = {}
    for key in keys:
        values = [item[key] for item in trajectories]
        if key == "infos":
            columns[key] = pa.array([[json.dumps(info) for info in infos] for infos in values])
        elif key == "terminal":
            columns[key] = pa.array(values)
        else:
            kind = pa.from_numpy_dtype(values[0].dtype)
            for _ in range(values[0].ndim):
                kind = pa.list_(kind)
            columns[key] = pa.array([value.tolist() for value in values], kind)
    table = pa.table(columns)
    names = [f"data-{index:05d}-of-{files:05d}.arrow" for index in range(files)]
    for index, name in enumerate(names):
        start, stop = (len(trajectories) * i // files for i in (index, index + 1))
        with pa.OSFile(str(path / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(start, stop - start), max_chunksize=2)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (path / "dataset_info.json").write_text(json.dumps({"features": {key: {} for key in keys}}))
    return path


def write(path: Path, layout: str, trajectories: list[dict[str, Any]]) -> Path:
    return (
        write_npz(path / "demos.npz", trajectories) if layout == "npz" else write_folder(path / "demos", trajectories)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_trajectories_become_episodes(tmp_path: Path, layout: str) -> None:
    trajectories = [trajectory(0, 5), trajectory(1, 1, terminal=False), trajectory(2, 3), trajectory(3, 2)]
    source = write(tmp_path, layout, trajectories)
    assert detect(source) == "imitation"
    report = convert(source, tmp_path / "store", options=NOT_LIMITED)
    store = TrajectoryStore.open(tmp_path / "store")
    assert validate(store) == []
    assert (report.format, report.episodes, report.steps, report.rows) == ("imitation", 4, 11, 11)
    assert (report.terminated, report.truncated, report.cut) == (3, 1, 1)
    assert any("infos are pickled" in note for note in report.notes)
    assert isinstance(store.spec.action_space, spaces.Discrete)
    for index, item in enumerate(trajectories):
        episode = store.episode(index)
        assert np.array_equal(episode.observation, item["obs"])
        assert np.array_equal(episode.action, item["acts"])
        assert np.array_equal(episode.reward, item["rews"])
        assert episode.observation.dtype == np.float32
        assert episode.terminated[-1] == item["terminal"]
        assert episode.truncated[-1] != item["terminal"]
        assert not episode.terminated[:-1].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flags_as_text_are_read_as_what_they_say(tmp_path: Path, layout: str) -> None:
    trajectories = [trajectory(0, 2), trajectory(1, 3), trajectory(2, 2)]
    for item, word in zip(trajectories, ("True", "False", "1"), strict=True):
        item["terminal"] = word
    report = plan_conversion(write(tmp_path, layout, trajectories), options=NOT_LIMITED)
    assert (report.terminated, report.truncated) == (2, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [np.nan, 0.5, "perhaps"])
def test_a_flag_that_is_neither_yes_nor_no_is_refused(tmp_path: Path, layout: str, value: float | str) -> None:
    trajectories = [trajectory(0, 2), trajectory(1, 3)]
    trajectories[0]["terminal"] = "true" if isinstance(value, str) else 1.0
    trajectories[1]["terminal"] = value
    with pytest.raises(DataError, match="neither true nor false") as raised:
        plan_conversion(write(tmp_path, layout, trajectories), options=NOT_LIMITED)
    assert "trajectory 1" in raised.value.where


def test_what_the_last_info_says_of_a_time_limit_is_believed(tmp_path: Path) -> None:
    trajectories = [trajectory(0, 5, limit=True), trajectory(1, 2, limit=False), trajectory(2, 4, limit=True)]
    trajectories.append(trajectory(3, 2, terminal=False, limit=True))
    report = convert(write_folder(tmp_path / "demos", trajectories), tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert [bool(store.episode(index).terminated[-1]) for index in range(4)] == [False, True, False, False]
    assert report.cut == 1
    assert any("TimeLimit.truncated" in note for note in report.notes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_word_on_time_limits_the_user_is_asked(tmp_path: Path, layout: str) -> None:
    source = write(tmp_path, layout, [trajectory(0, 5), trajectory(1, 2)])
    with pytest.raises(RequestError, match="whether a time limit ended it") as caught:
        convert(source, tmp_path / "store")
    assert "--time-limit" in str(caught.value)
    report = convert(source, tmp_path / "store", options=ConvertOptions(time_limit=5))
    assert (report.terminated, report.truncated) == (1, 1)
    assert any("1 episodes of exactly 5 steps" in note for note in report.notes)


def test_flags_that_some_infos_lack_are_asked_for(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "demos", [trajectory(0, 5, limit=True), trajectory(1, 2), trajectory(2, 3)])
    with pytest.raises(RequestError, match="for 2 of the 3 trajectories"):
        plan_conversion(source)
    report = plan_conversion(source, options=ConvertOptions(time_limit=2))
    assert (report.terminated, report.truncated) == (1, 2)


@pytest.mark.parametrize(("timeouts", "ends", "steps"), [("drop", (1, 1), 6), ("terminal", (2, 0), 7)])
def test_timeouts_are_treated_as_elsewhere(tmp_path: Path, timeouts: Any, ends: tuple[int, int], steps: int) -> None:
    source = write_folder(tmp_path / "demos", [trajectory(0, 5, limit=True), trajectory(1, 2, limit=False)])
    report = convert(source, tmp_path / "store", options=ConvertOptions(timeouts=timeouts))
    assert ((report.terminated, report.truncated), report.steps) == (ends, steps)
    store = TrajectoryStore.open(tmp_path / "store")
    assert validate(store) == []
    assert store.episode(0).observation[-1].tolist() == [0.0, 4.0 if timeouts == "drop" else 5.0]


def test_nothing_pickled_is_loaded_even_where_pickles_are_allowed(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "demos.npz", [trajectory(0, 2)])
    with pytest.raises(pytest.fail.Exception), np.load(source, allow_pickle=True) as archive:
        archive["infos"]
    options = ConvertOptions(mapping={"truncated": ""}, allow_pickle=True)
    assert convert(source, tmp_path / "store", options=options).episodes == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rewards_may_be_missing_or_left_out(tmp_path: Path, layout: str) -> None:
    bare = [{key: value for key, value in trajectory(0, 3).items() if key != "rews"}]
    report = convert(write(tmp_path, layout, bare), tmp_path / "bare", options=NOT_LIMITED)
    assert any("no rewards" in warning for warning in report.warnings)
    (tmp_path / "more").mkdir()
    options = ConvertOptions(mapping={"truncated": "", "reward": ""})
    convert(write(tmp_path / "more", layout, [trajectory(1, 3)]), tmp_path / "without", options=options)
    assert TrajectoryStore.open(tmp_path / "without").episode(0).reward.tolist() == [0.0] * 3


def test_files_and_batches_follow_each_other(tmp_path: Path) -> None:
    trajectories = [trajectory(number, 1 + number % 4) for number in range(11)]
    convert(write_folder(tmp_path / "demos", trajectories, files=3), tmp_path / "store", options=NOT_LIMITED)
    store = TrajectoryStore.open(tmp_path / "store")
    assert [store.episode(index).observation[0, 0] for index in range(11)] == list(range(11))


def test_tables_and_images_and_vectors_of_actions(tmp_path: Path) -> None:
    table = trajectory(0, 3) | {"obs": np.array([4, 1, 0, 6])}
    image = trajectory(0, 1) | {"obs": np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)}
    vector = trajectory(0, 2) | {"acts": np.array([[0.5, -1.0], [1.0, 0.0]], np.float32)}
    for name, item in (("table", table), ("image", image), ("vector", vector)):
        convert(write_folder(tmp_path / name, [item]), tmp_path / f"{name}-store", options=NOT_LIMITED)
        store = TrajectoryStore.open(tmp_path / f"{name}-store")
        assert np.array_equal(store.episode(0).observation, item["obs"])
        assert np.array_equal(store.episode(0).action, item["acts"])
        assert store.episode(0).observation.dtype == item["obs"].dtype
    # The state that is seen last counts among the states.
    assert TrajectoryStore.open(tmp_path / "table-store").spec.observation_space == spaces.Discrete(7)


def test_the_environment_gives_the_spaces(tmp_path: Path) -> None:
    item = trajectory(0, 2) | {"obs": np.zeros((3, 4), np.float64), "acts": np.array([0, 1])}
    options = ConvertOptions(environment="CartPole-v1", mapping={"truncated": ""})
    convert(write_npz(tmp_path / "demos.npz", [item]), tmp_path / "store", options=options)
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.metadata.environment == "CartPole-v1"
    assert store.spec.action_space == spaces.Discrete(2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda item: item.update(acts=item["acts"][:-1]), "observations and|rows, .* are expected"),
        (lambda item: item.update(rews=item["rews"][:-1]), "'rews' has"),
        (lambda item: item.update(acts=item["acts"][:0], obs=item["obs"][:1], rews=item["rews"][:0]), "has no steps"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(tmp_path: Path, layout: str, change: Any, words: str) -> None:
    trajectories = [trajectory(0, 3), trajectory(1, 2)]
    change(trajectories[1])
    with pytest.raises(DataError, match=words):
        convert(write(tmp_path, layout, trajectories), tmp_path / "store", options=NOT_LIMITED)
    assert not (tmp_path / "store").exists()


def test_damaged_sources_are_refused(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "demos.npz", [trajectory(0, 3)])
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cut short or damaged"):
        convert(file, tmp_path / "store", format="imitation", options=NOT_LIMITED)
    np.savez(file, obs=np.zeros((3, 1)))
    with pytest.raises(SourceError, match="there is no 'acts'"):
        convert(file, tmp_path / "store", format="imitation", options=NOT_LIMITED)
    folder = write_folder(tmp_path / "demos", [trajectory(0, 3)])
    (data,) = folder.glob("*.arrow")
    data.write_bytes(data.read_bytes()[:300])
    with pytest.raises(SourceError, match="can't be read"):
        convert(folder, tmp_path / "store", options=NOT_LIMITED)
    (folder / "state.json").write_text("{}")
    with pytest.raises(SourceError, match=r"state\.json"):
        convert(folder, tmp_path / "store", options=NOT_LIMITED)


def test_a_folder_names_files_of_its_own_only(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "saved", [trajectory(0, 3)])
    secret = write_folder(tmp_path / "secret", [trajectory(0, 3)])
    state = folder / "state.json"
    own = json.loads(state.read_text())["_data_files"][0]["filename"]
    for foreign in (f"../secret/{own}", str(secret / own)):
        state.write_text(json.dumps({"_data_files": [{"filename": foreign}]}))
        with pytest.raises(SourceError, match="only files in the folder"):
            plan_conversion(folder)


def test_other_mappings_are_refused(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "demos.npz", [trajectory(0, 3)])
    with pytest.raises(RequestError, match="'observation' can't be mapped"):
        convert(source, tmp_path / "store", options=ConvertOptions(mapping={"observation": "obs"}))


def test_rows_of_different_shapes_and_texts_are_refused(tmp_path: Path) -> None:
    for name, obs in (("ragged", [[[1.0], [1.0, 2.0]]]), ("texts", [[["a"], ["b"]]]), ("gaps", [[[1.0], [None]]])):
        folder = write_folder(tmp_path / name, [trajectory(0, 1)])
        table = pa.table({"obs": obs, "acts": [[1]], "terminal": [True]})
        (data,) = folder.glob("*.arrow")
        with pa.OSFile(str(data), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(OffrlError, match=r"different shapes|no numbers"):
            convert(folder, tmp_path / "store", options=NOT_LIMITED)
