"""From rows of transitions to episodes: each rule by hand, each mistake of popular readers, and any log at all.

The oracle is one plain loop over rows and knows nothing of arrays.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.converters import ConvertOptions, convert, plan_conversion, rows_to_episodes
from offrl.converters.options import Timeouts
from offrl.data.store import TrajectoryStore
from offrl.data.validate import validate
from offrl.errors import DataError, RequestError
from tests.converters.test_destination import write_rows


@dataclass
class Read:
    """What a log holds: episodes as (observations, actions, rewards, terminated, truncated), and what was dropped."""

    episodes: list[tuple[list[Any], list[Any], list[Any], bool, bool]] = field(default_factory=list)
    dropped_steps: int = 0
    dropped_episodes: int = 0
    cut: int = 0


def read(
    rows: dict[str, list[Any]],
    *,
    following: bool = False,
    timeouts: str = "keep",
    limit: int | None = None,
    one_flag: bool = False,
) -> Read:
    """Go through rows of s, a, r, terminal, timeout and next, one by one.

    Args:
        rows: key to one value per row.
        following: next states are stored.
        timeouts: keep, drop or terminal.
        limit: episodes were cut after so many steps, and `timeout` isn't there.
        one_flag: a terminal flag at the limit means that the limit struck.
    """
    found, states, actions, rewards = Read(), [], [], []
    count = len(rows["s"])
    for row in range(count):
        states.append(rows["s"][row])
        actions.append(rows["a"][row])
        rewards.append(rows["r"][row])
        terminated, truncated = rows["terminal"][row], limit is None and rows["timeout"][row]
        if limit is not None and len(actions) == limit:
            if one_flag and terminated:
                terminated, truncated = False, True
            if not terminated:
                truncated = True
        cut = row == count - 1 and not terminated and not truncated
        if not (terminated or truncated or cut):
            continue
        timed_out = truncated and not terminated
        if timed_out and timeouts == "terminal":
            terminated, truncated = True, False
        if (timed_out and timeouts == "drop") or not (terminated or following):
            actions.pop()
            rewards.pop()
            found.dropped_steps += 1
        else:
            states.append(rows["next"][row] if following else rows["s"][row])
        if actions:
            found.episodes.append((states, actions, rewards, terminated, truncated or cut))
            found.cut += cut
        else:
            found.dropped_episodes += 1
        states, actions, rewards = [], [], []
    return found


def assert_holds(store: TrajectoryStore, expected: Read) -> None:
    assert store.num_episodes == len(expected.episodes)
    for index, (states, actions, rewards, terminated, truncated) in enumerate(expected.episodes):
        episode, before = store.episode(index), [False] * (len(actions) - 1)
        assert episode.observation.tolist() == states
        assert episode.action.tolist() == actions
        assert episode.reward.tolist() == rewards
        assert episode.terminated.tolist() == [*before, terminated]
        assert episode.truncated.tolist() == [*before, truncated]
    assert [finding for finding in validate(store) if finding.severity == "error"] == []


@st.composite
def logs(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Up to six episodes of 1 to 8 steps, of which the last may end without a flag; no state occurs twice."""
    rows: dict[str, list[Any]] = {key: [] for key in ("s", "a", "r", "terminal", "timeout", "next")}
    episodes = draw(
        st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["", "t", "l", "tl"])), min_size=1, max_size=6)
    )
    states, actions = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    numbers = st.integers(-8, 8).map(lambda number: number / 8)
    for index, (steps, end) in enumerate(episodes):
        end = end or ("l" if index < len(episodes) - 1 else "")
        for step in range(steps):
            last = step == steps - 1
            rows["s"].append([float(index), step / 4, -1.0][:states] if states > 1 else [index * 100.0 + step])
            rows["next"].append(
                [float(index), step / 4 + 0.25, -1.0][:states] if states > 1 else [index * 100.0 + step + 1]
            )
            rows["a"].append([draw(numbers) for _ in range(actions)])
            rows["r"].append(draw(st.floats(-1e3, 1e3)))
            rows["terminal"].append(last and "t" in end)
            rows["timeout"].append(last and "l" in end)
    return rows


def write_npz(path: Path, rows: dict[str, list[Any]], *, following: bool, timeouts: bool) -> Path:
    arrays = {"observations": rows["s"], "actions": rows["a"], "rewards": rows["r"], "terminals": rows["terminal"]}
    if following:
        arrays["next_observations"] = rows["next"]
    if timeouts:
        arrays["timeouts"] = rows["timeout"]
    np.savez(path, **{key: np.array(values) for key, values in arrays.items()})
    return path


def check(path: Path, expected: Read, options: ConvertOptions) -> None:
    """Both the store and the report, of the plan too, are what the oracle says."""
    dest = path.with_name("store")
    planned = plan_conversion(path, options=options)
    if not expected.episodes:
        assert planned.problems[0].what == "no transition remains"
        with pytest.raises(DataError, match="no transition remains"):
            convert(path, dest, options=options)
        assert not dest.exists()
        return
    report = convert(path, dest, options=options)
    assert_holds(TrajectoryStore.open(dest), expected)
    assert {**report.to_dict(), "written": None} == planned.to_dict()
    assert report.episodes == len(expected.episodes)
    assert report.steps == sum(len(episode[1]) for episode in expected.episodes)
    assert report.rows == report.steps + expected.dropped_steps
    assert sum(item.steps for item in report.dropped) == expected.dropped_steps
    assert sum(item.episodes for item in report.dropped) == expected.dropped_episodes
    assert report.terminated == sum(episode[3] for episode in expected.episodes)
    assert report.truncated == sum(episode[4] and not episode[3] for episode in expected.episodes)
    assert report.cut == expected.cut


@settings(max_examples=25, deadline=None)
@given(
    rows=logs(),
    following=st.booleans(),
    timeouts=st.sampled_from(get_args(Timeouts)),
    suffix=st.sampled_from(["npz", "hdf5"]),
    block=st.sampled_from([90, 2**20]),
)
def test_any_log_with_both_flags(
    rows: dict[str, list[Any]], following: bool, timeouts: Timeouts, suffix: str, block: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_to_episodes, "BLOCK_BYTES", block)
        if suffix == "npz":
            path = write_npz(Path(folder, "log.npz"), rows, following=following, timeouts=True)
        else:
            more = {"next_observations": rows["next"]} if following else {}
            flags = {"terminals": np.array(rows["terminal"])[:, None], "timeouts": rows["timeout"]}
            rewards = np.array(rows["r"])[:, None]
            path = Path(folder, "log.hdf5")
            write_rows(path, observations=rows["s"], actions=rows["a"], rewards=rewards, **flags, **more)
        check(path, read(rows, following=following, timeouts=timeouts), ConvertOptions(timeouts=timeouts))


@settings(max_examples=25, deadline=None)
@given(rows=logs(), following=st.booleans(), limit=st.integers(1, 5), timeouts=st.sampled_from(get_args(Timeouts)))
def test_any_log_with_one_flag_and_a_time_limit(
    rows: dict[str, list[Any]], following: bool, limit: int, timeouts: Timeouts
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_npz(Path(folder, "log.npz"), rows, following=following, timeouts=False)
        expected = read(rows, following=following, timeouts=timeouts, limit=limit, one_flag=True)
        check(path, expected, ConvertOptions(timeouts=timeouts, time_limit=limit))


@settings(max_examples=25, deadline=None)
@given(rows=logs(), following=st.booleans(), both=st.booleans(), seed=st.integers(0, 99))
def test_any_table_in_any_order(rows: dict[str, list[Any]], following: bool, both: bool, seed: int) -> None:
    """Rows of a table are shuffled; its episodes come in the order in which they are first met."""
    numbers, steps, number, step = [], [], 0, 0
    for terminal, timeout in zip(rows["terminal"], rows["timeout"], strict=True):
        numbers.append(number)
        steps.append(step)
        ended = terminal or timeout
        number, step = (number + 1, 0) if ended else (number, step + 1)
    table = pd.DataFrame({"run": [f"run {n}" for n in numbers], "t": steps, "gain": rows["r"]})
    mapping = {
        "episode": "run",
        "step": "t",
        "reward": "gain",
        "terminated": "over",
        "truncated": "late" if both else "",
    }
    for field_, key in (("observation", "s"), ("action", "a"), ("next_observation", "next")):
        names = [f"{key}{i}" for i in range(len(rows[key][0]))]
        table[names] = rows[key]
        if following or key != "next":
            mapping[field_] = ",".join(names)
    table["over"], table["late"] = rows["terminal"], rows["timeout"]
    if not both:
        rows = {
            **rows,
            "timeout": [end and not over for end, over in zip(rows["timeout"], rows["terminal"], strict=True)],
        }
    order = np.random.default_rng(seed).permutation(len(table))
    met = list(dict.fromkeys(numbers[row] for row in order))

    expected = Read()
    for wanted in met:
        mine = [row for row in range(len(numbers)) if numbers[row] == wanted]
        one = read({key: [values[row] for row in mine] for key, values in rows.items()}, following=following)
        expected.episodes += one.episodes
        expected.dropped_steps += one.dropped_steps
        expected.dropped_episodes += one.dropped_episodes
        expected.cut += one.cut
    if not both:  # nothing marks what was cut
        expected.cut = sum(not episode[3] for episode in expected.episodes)
    with tempfile.TemporaryDirectory() as folder:
        table.iloc[order].to_csv(Path(folder, "log.csv"), index=False)
        check(Path(folder, "log.csv"), expected, ConvertOptions(mapping=mapping))


def convert_rows(folder: Path, options: ConvertOptions | None = None, **changed: Any) -> TrajectoryStore:
    convert(write_rows(folder / "log.hdf5", **changed), folder / "store", options=options)
    return TrajectoryStore.open(folder / "store")


NEXT = np.array([[2.0, 3], [4, 5], [6, 7], [-1, -1], [10, 11], [-2, -2]], np.float32)
"""Next observations of `write_rows`: those after row 3 (terminal) and row 5 (timeout) are in no other row."""


@pytest.mark.parametrize("following", [True, False])
def test_the_next_episodes_first_state_follows_no_terminal_one(tmp_path: Path, following: bool) -> None:
    store = convert_rows(tmp_path, **({"next_observations": NEXT} if following else {}))
    first = store.episode(0)
    assert first.observation.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [-1, -1] if following else [6, 7]]
    assert first.terminated.tolist() == [False, False, False, True]
    assert store.episode(1).observation[0].tolist() == [8, 9]


def test_the_state_that_a_time_limit_left_is_kept_and_not_zeroed(tmp_path: Path) -> None:
    last = convert_rows(tmp_path, next_observations=NEXT).episode(1)
    assert last.observation.tolist() == [[8, 9], [10, 11], [-2, -2]]
    assert (last.terminated.tolist(), last.truncated.tolist()) == ([False, False], [False, True])


@pytest.mark.parametrize("timeouts", get_args(Timeouts))
def test_an_episode_that_the_files_end_cuts_is_never_terminated(tmp_path: Path, timeouts: Timeouts) -> None:
    never = np.zeros(6, np.bool_)
    store = convert_rows(tmp_path, ConvertOptions(timeouts=timeouts), timeouts=never, next_observations=NEXT)
    last = store.episode(1)
    assert (last.terminated.tolist(), last.truncated.tolist()) == ([False, False], [False, True])
    assert store.num_steps == 6


def test_a_jump_between_rows_ends_no_episode(tmp_path: Path) -> None:
    jump = np.array([[0, 0], [1, 1], [500, 500], [501, 501], [0, 0], [1, 1]], np.float32)
    store = convert_rows(tmp_path, observations=jump, terminals=np.zeros(6))
    assert store.episodes.length.tolist() == [5]
    assert not store.read("terminated", 0, 6).any()


def test_episodes_keep_their_own_lengths(tmp_path: Path) -> None:
    """Not 1,000 steps each, whatever is dropped."""
    lengths = [998, 1001, 3, 1000]
    ends = np.cumsum(lengths) - 1
    timeouts = np.isin(np.arange(3002), ends)
    for choice, shift in (("keep", 0), ("drop", 1)):
        (tmp_path / choice).mkdir()
        store = convert_rows(
            tmp_path / choice,
            ConvertOptions(timeouts=choice),  # type: ignore[arg-type]
            rows=3002,
            terminals=np.zeros(3002),
            timeouts=timeouts,
            next_observations=np.arange(2, 6006, dtype=np.float32).reshape(3002, 2),
        )
        assert store.episodes.length.tolist() == [length - shift for length in lengths]


def test_an_episode_may_end_for_both_reasons(tmp_path: Path) -> None:
    store = convert_rows(tmp_path, timeouts=np.isin(np.arange(6), [3, 5]))
    assert (store.read("terminated", 3, 4).item(), store.read("truncated", 3, 4).item()) == (True, True)


def test_flags_of_the_source_come_before_a_time_limit(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "log.hdf5")
    plain, limited = plan_conversion(path), plan_conversion(path, options=ConvertOptions(time_limit=2))
    assert (limited.episodes, limited.steps) == (plain.episodes, plain.steps)
    assert any("time limit is not used" in note for note in limited.notes)


@pytest.mark.parametrize("key", ["infos/qpos", "action_mask"])
def test_what_is_known_of_the_final_row_is_kept(tmp_path: Path, key: str) -> None:
    """Three ends: a terminal state (row 2), a timeout (row 5) and the file's own end (row 7)."""
    name = "info.qpos" if key == "infos/qpos" else key
    flags = {"terminals": np.arange(8) == 2, "timeouts": np.arange(8) == 5}
    values = np.ones((8, 2), np.bool_) if key == "action_mask" else np.arange(1.0, 17).reshape(8, 2)
    store = convert_rows(tmp_path, rows=8, **flags, **{key: values})
    assert store.episodes.length.tolist() == [3, 2, 1]
    unknown = values[:1] * 0
    expected = np.concatenate([values[:3], unknown, values[3:6], values[6:8]])
    assert store.read(name, 0, 9).tolist() == expected.tolist()


class Bytes(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(0, 255, (2,), np.uint8)
    action_space = gym.spaces.Discrete(3)


@pytest.fixture
def bytes_id() -> str:
    if "test/Bytes-v0" not in gym.registry:
        gym.register("test/Bytes-v0", Bytes)
    return "test/Bytes-v0"


@pytest.mark.parametrize(
    ("column", "row", "value", "says"),
    [
        ("actions", 4, 0.5, r"the action is \[?0\.5"),
        ("observations", 2, 300.0, "the observation is .*300"),
        ("observations", 1, 2.5, "the observation is .*2\\.5"),
        ("observations", 1, np.nan, "the observation is .*nan"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_number_that_the_space_cannot_hold_is_refused(
    tmp_path: Path, bytes_id: str, column: str, row: int, value: float, says: str
) -> None:
    arrays = {"observations": np.arange(12.0).reshape(6, 2), "actions": np.array([0.0, 1, 2, 0, 1, 2])}
    options = ConvertOptions(environment=bytes_id)
    whole = convert_rows(tmp_path, options, **arrays)
    assert whole.episode(0).action.tolist() == [0, 1, 2, 0]
    assert whole.episode(0).observation.dtype == np.uint8

    arrays[column][row] = value
    path = write_rows(tmp_path / "log.hdf5", **arrays)
    with pytest.raises(DataError, match=says) as raised:
        convert(path, tmp_path / "other", options=options)
    assert f"row {row}" in raised.value.where
    assert plan_conversion(path, options=options).problems[0].where == raised.value.where


def test_where_a_sorted_table_disagrees_is_said_in_the_tables_rows(tmp_path: Path) -> None:
    steps = np.arange(20)
    table = pd.DataFrame({"episode": 0, "step": steps, "observation": steps * 1.0, "next_observation": steps + 1.0})
    table = table.assign(action=0.0, reward=1.0, terminated=steps == 19)
    table.loc[4, "next_observation"] = 99.0
    table.iloc[::-1].to_csv(tmp_path / "log.csv", index=False)
    (warning,) = [text for text in plan_conversion(tmp_path / "log.csv").warnings if "differs" in text]
    assert "log.csv, row 15" in warning


def test_states_and_successors_without_flags_are_no_bandit_log(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"observation": [0.0, 1.0], "next_observation": [1.0, 2.0], "action": [0.5, 0.5], "reward": 1.0}
    )
    table.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(RequestError, match="nothing tells where episodes end"):
        convert(tmp_path / "log.csv", tmp_path / "store")
    with pytest.raises(RequestError, match="time limit from a terminal state") as raised:
        convert(tmp_path / "log.csv", tmp_path / "store", options=ConvertOptions(mapping={"terminated": ""}))
    assert "--map truncated=" in raised.value.hint
    table["terminated"], table["truncated"] = [False, False], [False, True]
    table.to_csv(tmp_path / "log.csv", index=False)
    assert plan_conversion(tmp_path / "log.csv").terminated == 0


@pytest.mark.parametrize("kind", ["uint8", "uint64", "int16", "float32", "datetime64[ns]"])
def test_steps_of_any_kind_order_the_rows(tmp_path: Path, kind: str) -> None:
    steps = [3, 1, 2, 0]
    table = pd.DataFrame({"episode": "a", "step": np.array(steps).astype(kind), "observation": [3.0, 1.0, 2.0, 0.0]})
    table = table.assign(action=[0.3, 0.1, 0.2, 0.0], reward=1.0, terminated=[True, False, False, False])
    table.to_parquet(tmp_path / "log.parquet")
    convert(tmp_path / "log.parquet", tmp_path / "store")
    episode = TrajectoryStore.open(tmp_path / "store").episode(0)
    assert episode.observation[:, 0].tolist() == [0, 1, 2, 3, 3]
    assert episode.action[:, 0].tolist() == [0, 0.1, 0.2, 0.3]
