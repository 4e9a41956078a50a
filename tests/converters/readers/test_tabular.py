"""Tables: CSV, Parquet and JSON lines; which columns make up what, and where episodes end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.converters import ConvertOptions, convert, parse_mapping, plan_conversion, rows_to_episodes
from offrl.data.store import TrajectoryStore
from offrl.errors import DataError, RequestError, SourceError
from tests.converters.logs import Log, assert_holds, logs, make_log, read_by_hand

FORMATS = ["csv", "tsv", "parquet", "jsonl"]
MAPPING = {
    "observation": "s_*",
    "action": "a0,a1",
    "reward": "gain",
    "episode": "trip",
    "step": "t",
    "terminated": "over",
    "truncated": "cut",
}
NEXT = {"next_observation": "n_0,n_1,n_2"}


def to_table(log: Log) -> pd.DataFrame:
    """One row per step, float64 throughout, so that every format holds the same numbers."""
    columns: dict[str, Any] = {"trip": [f"trip-{9 - number}" for number in log.episode]}
    columns["t"] = _steps(log.episode)
    for i in range(3):
        columns[f"s_{i}"] = log.observation[:, i].astype(np.float64)
        columns[f"n_{i}"] = log.next_observation[:, i].astype(np.float64)
    for i in range(2):
        columns[f"a{i}"] = log.action[:, i].astype(np.float64)
    return pd.DataFrame({**columns, "gain": log.reward, "over": log.terminated, "cut": log.truncated})


def _steps(episodes: list[int]) -> list[int]:
    return [sum(1 for other in episodes[:row] if other == number) for row, number in enumerate(episodes)]


def write(table: pd.DataFrame, path: Path) -> Path:
    """Write a table in the format that its name says."""
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".tsv":
        table.to_csv(path, index=False, sep="\t")
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")))
    return path


def options(**mapping: str) -> ConvertOptions:
    return ConvertOptions(mapping={**MAPPING, **mapping})


@pytest.fixture
def log() -> Log:
    return make_log([2, 3, 2], ["terminal", "timeout", ""], seed=4)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("has_next", [True, False])
def test_every_format_holds_the_same_episodes(tmp_path: Path, log: Log, format: str, has_next: bool) -> None:
    path = write(to_table(log), tmp_path / f"log.{format}")
    convert(path, tmp_path / "store", options=options(**(NEXT if has_next else {})))
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=has_next))


@settings(max_examples=20, deadline=None)
@given(log=logs(), format=st.sampled_from(FORMATS), shuffle=st.booleans(), seed=st.integers(0, 99))
def test_any_table_is_read_as_by_hand(
    tmp_path_factory: pytest.TempPathFactory, log: Log, format: str, shuffle: bool, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    table = to_table(log)
    if shuffle:
        first = table[table.trip == "trip-9"].sample(frac=1, random_state=seed)  # episodes keep their order
        table = pd.concat([first.iloc[:1], table.drop(first.index[0]).sample(frac=1, random_state=seed)])
    convert(write(table, folder / f"log.{format}"), folder / "store", options=options(**NEXT))
    store = TrajectoryStore.open(folder / "store")
    order = list(dict.fromkeys(table.trip))
    expected = read_by_hand(log, has_next=True)
    assert_holds(store, [expected[9 - int(name[5:])] for name in order])


def test_small_blocks_and_batches_change_nothing(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_to_episodes, "BLOCK_BYTES", 100)
    to_table(log).to_parquet(tmp_path / "log.parquet", row_group_size=2)
    convert(tmp_path / "log.parquet", tmp_path / "store", options=options(**NEXT))
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=True))


def test_columns_named_as_the_store_has_them_need_no_mapping(tmp_path: Path, log: Log) -> None:
    names = {"trip": "episode", "gain": "reward", "over": "terminated", "cut": "truncated", "a0": "action"}
    table = to_table(log).rename(columns={**names, "s_0": "observation.x", "s_1": "observation.y"})
    convert(write(table, tmp_path / "log.csv"), tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert isinstance(store.spec.observation_space, spaces.Dict)
    np.testing.assert_array_equal(store.episode(1).observation["y"][:, 0], table["observation.y"][2:5])


def test_lists_in_cells_make_vectors(tmp_path: Path, log: Log) -> None:
    rows = [
        {"episode": e, "observation": o.tolist(), "action": a.tolist(), "reward": r, "terminated": t, "truncated": u}
        for e, o, a, r, t, u in zip(
            log.episode,
            log.observation,
            log.action,
            log.reward,
            log.terminated.tolist(),
            log.truncated.tolist(),
            strict=True,
        )
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    convert(tmp_path / "log.jsonl", tmp_path / "store")
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=False))

    rows[4]["observation"] = [1.0]
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="1 values, other rows have 3") as raised:
        convert(tmp_path / "odd.jsonl", tmp_path / "odd")
    assert "row 4" in raised.value.where


def test_the_log_of_a_bandit(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [0.5, 1.5, 2.5], "arm": [1, 0, 2], "p": [0.5, 0.25, 1.0], "reward": [1, 0, 1]})
    mapping = parse_mapping(["observation=x", "action=arm", "behavior_prob=p"])
    options = ConvertOptions(mapping=mapping, bandit=True)
    report = convert(write(table, tmp_path / "bandit.csv"), tmp_path / "store", options=options)

    store = TrajectoryStore.open(tmp_path / "store")
    assert (report.episodes, report.terminated, report.lengths) == (3, 3, (1, 1.0, 1))
    assert report.behavior_log_prob
    assert store.spec.action_space == spaces.Discrete(3)
    assert [int(store.episode(i).action[0]) for i in range(3)] == [1, 0, 2]
    logged = [float(store.episode(i).extras["behavior_log_prob"][0]) for i in range(3)]
    np.testing.assert_allclose(logged, np.log([0.5, 0.25, 1.0]), rtol=1e-15)


@pytest.mark.parametrize(("actions", "warned"), [([1, 0, 2], True), ([0.5, 0.0, 1.0], False)])
def test_bounds_of_whole_numbers_are_warned_of(actions: list[float], warned: bool, tmp_path: Path) -> None:
    table = pd.DataFrame({"observation": [0.5, 1.5, 2.5], "action": actions, "reward": [1, 0, 1]})
    report = convert(
        write(table, tmp_path / "log.csv"),
        tmp_path / "store",
        options=ConvertOptions(action_bounds=(-2.0, 2.0), bandit=True),
    )
    assert any("--action-bounds has no effect" in warning for warning in report.warnings) == warned


def test_steps_of_episodes_that_nothing_tells_apart_are_no_bandit_log(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [0.5, 1.5, 2.5], "action": [1, 0, 2], "t": [0.0, 0.1, 0.0], "reward": [1, 0, 1]})
    path = write(table, tmp_path / "log.csv")
    with pytest.raises(RequestError, match="nothing tells where these end"):
        plan_conversion(path, options=ConvertOptions(mapping=parse_mapping(["observation=x", "step=t"])))
    mapping = parse_mapping(["observation=x", "step="])
    report = plan_conversion(path, options=ConvertOptions(mapping=mapping, bandit=True))
    assert report.episodes == 3


def test_steps_that_fall_within_an_episode_are_refused(tmp_path: Path, log: Log) -> None:
    """The second of three episodes was cut, which the mapping leaves out: the third would be glued to it."""
    path = write(to_table(log), tmp_path / "log.csv")
    mapping = {key: value for key, value in MAPPING.items() if key != "episode"}
    convert(path, tmp_path / "store", options=ConvertOptions(mapping=mapping))
    assert TrajectoryStore.open(tmp_path / "store").num_episodes == 3
    with pytest.raises(DataError, match="falls from 2 to 0 within an episode") as raised:
        plan_conversion(path, options=ConvertOptions(mapping={**mapping, "truncated": ""}))
    assert "row 5" in raised.value.where


def test_a_clock_in_fractions_of_a_second_is_even(tmp_path: Path, log: Log) -> None:
    table = to_table(log)
    table["t"] = 1_000.0 + 0.02 * table["t"] + np.linspace(0.0, 0.002, len(table))
    even = plan_conversion(write(table, tmp_path / "even.csv"), options=options())
    assert not any("evenly" in warning for warning in even.warnings)
    gap = plan_conversion(write(table.drop(3), tmp_path / "gap.csv"), options=options())
    assert any("doesn't rise evenly" in warning and "row 3" in warning for warning in gap.warnings)


@pytest.mark.parametrize("probability", [0.0, -0.5, 1.5])
def test_what_can_be_no_probability_is_refused(tmp_path: Path, probability: float) -> None:
    table = pd.DataFrame({"observation": [1.0, 2.0], "action": [0, 1], "behavior_prob": [0.5, probability]})
    table["reward"] = 0.0
    table = table.rename(columns={"behavior_prob": "propensity"})
    plan = ConvertOptions(mapping={"behavior_prob": "propensity"}, bandit=True)
    with pytest.raises(DataError, match=f"the behavior_prob is {probability}") as raised:
        convert(write(table, tmp_path / "bandit.csv"), tmp_path / "store", options=plan)
    assert "row 1, column 'propensity'" in raised.value.where


def test_flags_end_episodes_where_no_column_names_them(tmp_path: Path, log: Log) -> None:
    path = write(to_table(log), tmp_path / "log.csv")
    mapping = {key: value for key, value in MAPPING.items() if key not in ("episode", "step")}
    convert(path, tmp_path / "store", options=ConvertOptions(mapping=mapping))
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=False))
    del mapping["truncated"]
    with pytest.raises(RequestError, match="--time-limit"):
        convert(path, tmp_path / "x", options=ConvertOptions(mapping=mapping))


def test_flags_in_words_and_numbers(tmp_path: Path, log: Log) -> None:
    table = to_table(log)
    table["over"] = ["yes" if flag else "no" for flag in log.terminated]
    table["cut"] = log.truncated.astype(float)
    convert(write(table, tmp_path / "log.csv"), tmp_path / "store", options=options())
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=False))

    table["over"] = "perhaps"
    with pytest.raises(DataError, match="perhaps") as raised:
        convert(write(table, tmp_path / "log.csv"), tmp_path / "x", options=options())
    assert "row 0" in raised.value.where


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("over", "cut"), [(1.0, None), (None, 1.0), (np.nan, 0.0)])
def test_a_missing_flag_is_refused_by_row_and_column(
    tmp_path: Path, log: Log, format: str, over: float | None, cut: float | None
) -> None:
    table = to_table(log)
    for name, value in (("over", over), ("cut", cut)):
        table[name] = table[name].astype(float)
        table.loc[3, name] = value
    with pytest.raises(DataError, match=r"is empty|holds nan") as raised:
        plan_conversion(write(table, tmp_path / f"log.{format}"), options=options())
    assert f"row 3, column '{'cut' if cut is None else 'over'}'" in raised.value.where
    assert "--map" in raised.value.hint


def test_not_a_number_in_a_column_of_flags_is_refused(tmp_path: Path, log: Log) -> None:
    arrays = {name: pa.array(column) for name, column in to_table(log).items()}
    arrays["over"] = pa.array(np.where(log.terminated, 1.0, np.nan))  # pandas would write null instead
    pq.write_table(pa.table(arrays), tmp_path / "log.parquet")
    with pytest.raises(DataError, match="'over' holds nan"):
        plan_conversion(tmp_path / "log.parquet", options=options())


@pytest.mark.parametrize("format", FORMATS)
def test_flags_as_text_are_read_as_what_they_say(tmp_path: Path, log: Log, format: str) -> None:
    table = to_table(log)
    table["over"] = ["True" if flag else "False" for flag in log.terminated]
    table["cut"] = ["1" if flag else "0" for flag in log.truncated]
    convert(write(table, tmp_path / f"log.{format}"), tmp_path / "store", options=options())
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=False))


def test_an_episode_column_without_flags_asks(tmp_path: Path, log: Log) -> None:
    path = write(to_table(log), tmp_path / "log.csv")
    mapping = {key: value for key, value in MAPPING.items() if key not in ("terminated", "truncated")}
    with pytest.raises(RequestError, match="terminal state or was cut"):
        convert(path, tmp_path / "store", options=ConvertOptions(mapping=mapping))
    report = convert(path, tmp_path / "store", options=ConvertOptions(mapping={**mapping, "terminated": ""}))
    assert (report.terminated, report.truncated) == (0, 3)


def test_a_flag_at_exactly_the_time_limit_means_truncated_where_it_is_the_only_one(tmp_path: Path) -> None:
    log = make_log([3, 2], ["terminal", "terminal"], seed=0)
    mapping = {key: value for key, value in MAPPING.items() if key != "truncated"}
    report = convert(
        write(to_table(log), tmp_path / "log.csv"),
        tmp_path / "store",
        options=ConvertOptions(mapping={**mapping, **NEXT}, time_limit=3),
    )
    assert (report.terminated, report.truncated, report.cut) == (1, 1, 0)


def test_whole_numbers_that_turn_out_to_have_fractions(tmp_path: Path) -> None:
    rows = 200_000  # more than Arrow looks at before it settles on a type
    table = pd.DataFrame(
        {"observation": range(rows), "action": 1, "reward": 0, "terminated": 1, "episode": range(rows)}
    )
    table["behavior_log_prob"] = 0
    text = table.astype(str)
    text.loc[rows - 1, ["observation", "action", "reward"]] = "0.5"
    text.loc[rows - 1, "behavior_log_prob"] = "-0.5"
    report = convert(write(text, tmp_path / "log.csv"), tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert isinstance(report.spec.action_space, spaces.Box)
    assert float(store.episode(rows - 1).action[0, 0]) == 0.5
    assert float(store.episode(rows - 2).action[0, 0]) == 1.0
    assert float(store.episode(rows - 1).extras["behavior_log_prob"][0]) == -0.5


@pytest.mark.parametrize("kind", [pa.date32(), pa.time32("s"), pa.date64(), pa.time64("us"), pa.timestamp("s")])
def test_dates_and_times_order_steps_and_are_infos(tmp_path: Path, log: Log, kind: pa.DataType) -> None:
    table = {name: pa.array(column) for name, column in to_table(log).items()}
    days = np.array(_steps(log.episode)) * (86_400_000 if kind == pa.date64() else 1)
    table["t"] = pa.array(days, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)
    table["info.day"] = table["t"]
    pq.write_table(pa.table(table).take(pa.array(range(len(days))[::-1])), tmp_path / "log.parquet")
    convert(tmp_path / "log.parquet", tmp_path / "store", options=options())
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.episode(1).observation.tolist()[:3] == log.observation[2:5].tolist()
    assert (np.diff(store.episode(1).extras["info.day"]) > 0).all()


def test_numbers_that_turn_out_to_be_words(tmp_path: Path) -> None:
    rows = 200_000  # more than Arrow looks at before it settles on a type
    table = pd.DataFrame({"observation": 0.5, "action": 1, "reward": 0, "terminated": 0, "episode": range(rows)})
    text = table.astype(str)
    text.loc[rows - 1, "episode"] = "the last"
    text.loc[rows - 1, "terminated"] = "true"
    report = convert(write(text, tmp_path / "log.csv"), tmp_path / "store")
    assert (report.terminated, report.truncated) == (1, 0)


def test_missing_steps_are_warned_of_and_repeated_ones_refused(tmp_path: Path, log: Log) -> None:
    table = to_table(log)
    report = plan_conversion(write(table.drop(3), tmp_path / "gap.csv"), options=options(**NEXT))
    assert any("doesn't rise evenly" in warning and "row 3" in warning for warning in report.warnings)
    assert any("next_observation differs" in warning and "row 2" in warning for warning in report.warnings)
    table.loc[4, "t"] = 1
    with pytest.raises(DataError, match="twice") as raised:
        plan_conversion(write(table, tmp_path / "gap.csv"), options=options())
    assert "row 4" in raised.value.where


def test_an_episode_that_goes_on_after_its_end(tmp_path: Path, log: Log) -> None:
    table = to_table(log)
    table.loc[2, "over"] = True
    with pytest.raises(DataError, match="goes on") as raised:
        convert(write(table, tmp_path / "log.csv"), tmp_path / "store", options=options())
    assert "row 2" in raised.value.where


def test_rewards_that_are_missing_are_refused_with_their_row(tmp_path: Path, log: Log) -> None:
    for format in FORMATS:
        table = to_table(log)
        table.loc[2, "gain"] = np.nan
        with pytest.raises(DataError, match="reward") as raised:
            convert(write(table, tmp_path / f"log.{format}"), tmp_path / "store", options=options())
        assert "row 2" in raised.value.where
        table = table.sort_values("s_0")  # the row that is named is the file's, not the sorted one's
        with pytest.raises(DataError, match="reward") as raised:
            convert(write(table, tmp_path / f"log.{format}"), tmp_path / "store", options=options())
        assert f"row {list(table.index).index(2)}," in raised.value.where


@pytest.mark.parametrize(
    ("mapping", "error", "says"),
    [
        ({"reward": "profit"}, SourceError, "no column 'profit'"),
        ({"observation": "z_*"}, SourceError, "no column 'z_\\*'"),
        ({"observation": "trip"}, SourceError, "not numbers"),
        ({"action": "trip"}, SourceError, "not numbers"),
        ({"observation": ""}, SourceError, "known to be the observation"),
        ({"reward": "gain,t"}, RequestError, "one column"),
        ({"behavior_prob": "gain", "behavior_log_prob": "gain"}, RequestError, "both"),
        ({"next_observation": "n_0"}, SourceError, "'n_0' have the shape"),
    ],
)
def test_wrong_mappings_are_refused(
    tmp_path: Path, log: Log, mapping: dict[str, str], error: type[Exception], says: str
) -> None:
    path = write(to_table(log), tmp_path / "log.csv")
    with pytest.raises(error, match=says):
        convert(path, tmp_path / "store", options=options(**mapping))


def test_a_missing_column_is_answered_with_those_there_are(tmp_path: Path, log: Log) -> None:
    with pytest.raises(SourceError) as raised:
        plan_conversion(write(to_table(log), tmp_path / "log.csv"), options=options(reward="profit"))
    assert "gain" in raised.value.hint


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("log.csv", b"", "empty"),
        ("log.csv", b"observation,action,reward\n", "no rows"),
        ("log.csv", b"observation,action,reward\n1,2,3\n4,5\n", "can't be read"),
        ("log.jsonl", b'{"observation": 1,', "can't be read"),
        ("log.parquet", b"PAR1 and nothing else", "can't be read"),
        ("log.csv", b"observation,action,reward\n1,2,3\n\xff\xfe,5,6\n", "not numbers|can't be read"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((SourceError, DataError), match=says) as raised:
        convert(tmp_path / name, tmp_path / "store")
    assert name in raised.value.where
    assert not (tmp_path / "store").exists()
