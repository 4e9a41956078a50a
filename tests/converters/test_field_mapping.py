"""Which key is which column: names that are known, names that are mapped, and what can't be a column."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from offrl.converters import ConversionReport, ConvertOptions, plan_conversion
from offrl.errors import DataError, RequestError, SourceError

ROWS: dict[str, Any] = {
    "observations": np.arange(8.0).reshape(4, 2),
    "actions": np.linspace(-1, 1, 4)[:, None],
    "rewards": np.ones(4),
    "terminals": np.arange(4) == 3,
    "timeouts": np.zeros(4, np.bool_),
}


def plan(folder: Path, changed: dict[str, Any], **mapping: str) -> ConversionReport:
    """Of an archive with these arrays; None leaves one out."""
    np.savez(folder / "log.npz", **{key: value for key, value in {**ROWS, **changed}.items() if value is not None})
    fields = {name.replace("__", "."): key for name, key in mapping.items()}
    return plan_conversion(folder / "log.npz", options=ConvertOptions(mapping=fields))


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        ("observations", "observation"),
        ("observations", "obs"),
        ("actions", "action"),
        ("rewards", "reward"),
        ("terminals", "terminal"),
        ("terminals", "terminations"),
        ("terminals", "terminated"),
        ("timeouts", "truncations"),
        ("timeouts", "truncated"),
    ],
)
def test_other_names_for_the_same(tmp_path: Path, usual: str, other: str) -> None:
    report = plan(tmp_path, {usual: None, other: ROWS[usual]})
    assert (report.steps, report.terminated, report.dropped) == (4, 1, [])


@pytest.mark.parametrize("key", ["dones", "done"])
def test_done_may_mean_either_flag_and_is_asked_for(tmp_path: Path, key: str) -> None:
    changed = {"terminals": None, key: ROWS["terminals"]}
    with pytest.raises(SourceError, match="no 'terminals'") as raised:
        plan(tmp_path, changed)
    assert key in raised.value.hint
    assert "--map terminated=KEY" in raised.value.hint
    assert plan(tmp_path, changed, terminated=key).terminated == 1


def test_starts_of_episodes_are_no_ends_and_pointed_at(tmp_path: Path) -> None:
    starts = {"episode_starts": np.arange(4) % 2 == 0}
    with pytest.raises(SourceError, match="'episode_starts' is not mapped, and seems to mark where episodes begin"):
        plan(tmp_path, {**starts, "terminals": None})
    with pytest.raises(RequestError, match="'episode_starts' is not mapped"):
        plan(tmp_path, {**starts, "timeouts": None})
    report = plan(tmp_path, {**starts, "timeouts": None}, truncated="")
    assert any("'episode_starts' is not mapped" in warning for warning in report.warnings)
    assert not any("episode_starts" in warning for warning in plan(tmp_path, starts).warnings)


def test_a_refusal_lists_twenty_keys_at_most(tmp_path: Path) -> None:
    many = {f"k{number}": np.zeros(4) for number in range(300)}
    for mapping in ({}, {"reward": "prize"}):
        with pytest.raises(SourceError) as raised:
            plan(tmp_path, {**many, "rewards": None}, **mapping)
        assert "and 284 more" in raised.value.hint


@pytest.mark.parametrize("key", ["observations", "actions", "next_observations", "action_masks"])
def test_arrays_without_components_are_refused_by_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(SourceError, match=rf"rows of '{key}' have the shape \(0,\)"):
        plan(tmp_path, {key: np.zeros((4, 0))})


def test_infos_without_components_are_left_out(tmp_path: Path) -> None:
    report = plan(tmp_path, {"infos/none": np.zeros((4, 0))})
    assert [item.reason for item in report.dropped] == ["'infos/none': no components"]


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "infos/x"])
def test_a_precision_that_no_dataset_has_is_refused_by_key(tmp_path: Path, key: str) -> None:
    array = np.zeros((4, 2) if key == "observations" else 4, np.longdouble)
    with pytest.raises(SourceError, match=f"'{key}' holds float128") as raised:
        plan(tmp_path, {key: array})
    assert "float64" in raised.value.hint


@pytest.mark.parametrize("width", [1, 3])
def test_next_observations_of_another_width_are_refused_by_key(tmp_path: Path, width: int) -> None:
    with pytest.raises(SourceError, match=rf"'next_observations' have the shape \({width},\), those of 'observations'"):
        plan(tmp_path, {"next_observations": np.zeros((4, width))})


def test_what_is_mapped_comes_before_what_is_known(tmp_path: Path) -> None:
    report = plan(tmp_path, {"states": np.zeros((4, 3))}, observation="states", info__seen="observations")
    assert report.columns["observation"][1] == (3,)
    assert report.columns["info.seen"][1] == (2,)
    assert not any("observations" in item.reason for item in report.dropped)


def test_parts_are_mapped_one_by_one(tmp_path: Path) -> None:
    changed = {"observations": None, "x": np.zeros((4, 3)), "y": np.zeros(4, np.float32)}
    report = plan(tmp_path, changed, observation__arm__x="x", observation__y="y")
    assert report.spec.observation_space == spaces.Dict(
        {
            "arm": spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (3,), np.float64)}),
            "y": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
    )


def test_next_observations_need_the_parts_of_the_observations(tmp_path: Path) -> None:
    changed = {"next_observations": ROWS["observations"] + 2, "x": np.zeros((4, 3))}
    with pytest.raises(SourceError, match="next observations have the parts") as raised:
        plan(tmp_path, changed, observation__x="x")
    assert "--map next_observation=" in raised.value.hint
    assert plan(tmp_path, changed, observation__x="x", next_observation="").steps == 4


def test_rewards_may_be_missing_only_when_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no 'rewards'"):
        plan(tmp_path, {"rewards": None})
    report = plan(tmp_path, {"rewards": None}, reward="")
    assert any("no rewards" in warning for warning in report.warnings)
    for field in ("observation", "action"):
        with pytest.raises(SourceError, match=f"the {field}"):
            plan(tmp_path, {}, **{field: ""})


def test_a_mapped_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no key 'cost'") as raised:
        plan(tmp_path, {}, reward="cost")
    assert "rewards" in raised.value.hint


@pytest.mark.parametrize("field", ["episode", "step", "behavior_prob"])
def test_what_only_tables_have(tmp_path: Path, field: str) -> None:
    with pytest.raises(RequestError, match="for a table only"):
        plan(tmp_path, {}, **{field: "rewards"})


@pytest.mark.parametrize("key", ["rewards", "terminals", "timeouts", "action_log_probs"])
@pytest.mark.parametrize("shape", [(4, 2), (4, 0), (4, 1, 3)])
def test_a_step_has_one_reward_and_one_flag(tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="for each step") as raised:
        plan(tmp_path, {key: np.zeros(shape)})
    assert key in raised.value.what
    assert str(shape[1:]) in raised.value.what


@pytest.mark.parametrize("key", ["rewards", "terminals", "action_log_probs"])
def test_vectors_of_one_are_numbers(tmp_path: Path, key: str) -> None:
    column = {"rewards": "reward", "terminals": "terminated"}.get(key, "behavior_log_prob")
    report = plan(tmp_path, {key: np.array([0, 0, 0, 1]).reshape(4, 1, 1)})
    assert report.columns[column][1] == ()


def test_an_array_called_metadata_is_no_group_of_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for key, array in ROWS.items():
            file[key] = array
        file["metadata"] = np.zeros(7)
    assert plan_conversion(tmp_path / "log.hdf5").steps == 4


def plan_paths(folder: Path, paths: list[dict[str, Any]], **mapping: str) -> ConversionReport:
    (folder / "log.pkl").write_bytes(pickle.dumps(paths))
    options = ConvertOptions(allow_pickle=True, time_limit=50, mapping=mapping)
    return plan_conversion(folder / "log.pkl", options=options)


def path(steps: int, **changed: Any) -> dict[str, Any]:
    """A path that ends in a terminal state."""
    return {
        "observation": np.zeros((steps, 2)),
        "action": np.zeros((steps, 1)),
        "reward": np.ones(steps),
        "terminal": np.arange(steps) == steps - 1,
        **changed,
    }


@pytest.mark.parametrize("value", [1.0, True, "no", None])
@pytest.mark.parametrize("key", ["reward", "terminal"])
def test_a_single_value_for_a_path_is_none_for_each_step(tmp_path: Path, key: str, value: object) -> None:
    paths = [path(3), path(2, **{key: value})]
    with pytest.raises(SourceError, match=f"'{key}' holds no numbers for each step") as raised:
        plan_paths(tmp_path, paths)
    assert raised.value.hint
    name = {"reward": "reward", "terminal": "terminated"}[key]
    assert plan_paths(tmp_path, paths, **{name: ""}).episodes == 2


def test_what_is_no_column_of_a_path_is_left_out(tmp_path: Path) -> None:
    odd = {"ragged": [[1], [1, 2], [3]], "seed": 7, "name": "first", "deep": {"list": [1, [2, 3]]}}
    report = plan_paths(tmp_path, [path(3, **odd), path(2, **odd)])
    assert report.steps == 5
    assert sorted(item.reason.split("'")[1] for item in report.dropped) == ["deep/list", "name", "ragged", "seed"]


def test_a_path_of_another_length_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'reward' has 3 rows, there are 4 actions") as raised:
        plan_paths(tmp_path, [path(3), path(4, reward=np.ones(3)), path(2, reward=np.ones(3))])
    assert "path 1" in raised.value.where
