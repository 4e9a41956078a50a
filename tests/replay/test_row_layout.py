"""Where each column lies in a packed row."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from offrl.data.schema import ColumnSpec
from offrl.replay.normalization import ActionMap, ObservationNormalizer, RewardScaler
from offrl.replay.row_layout import RowLayout, Transforms, known_masks
from offrl.types import Spec
from tests.data.stores import SPEC


def test_a_row_is_observation_action_reward_and_flags() -> None:
    layout = RowLayout.of(SPEC)
    assert {name: (place.start, place.stop) for name, place in layout.slices.items()} == {
        "observation": (0, 2),
        "action": (2, 3),
        "reward": (3, 4),
        "terminated": (4, 5),
        "truncated": (5, 6),
    }
    assert (layout.width, layout.observation_width, layout.pair_width, layout.row_bytes) == (6, 2, 8, 24)


def test_images_stay_out_and_optional_columns_go_before_the_reward() -> None:
    observation = spaces.Dict(
        {"eye": spaces.Box(0, 255, (4, 4), np.uint8), "mode": spaces.Discrete(3), "grid": spaces.Box(0, 1, (2, 3))}
    )
    optional = [
        ColumnSpec("behavior_log_prob", np.dtype(np.float64), ()),
        ColumnSpec("action_mask", np.dtype(np.bool_), (5,)),
    ]
    layout = RowLayout.of(Spec(observation, spaces.MultiDiscrete([2, 5])), optional)
    names = ["observation.grid", "observation.mode", "action", "action_mask", "behavior_log_prob"]
    assert [name for name, _ in layout.columns] == [*names, "reward", "terminated", "truncated"]
    assert layout.images == (("observation.eye", (4, 4)),)
    assert (layout.width, layout.observation_width, layout.row_bytes) == (7 + 2 + 5 + 1 + 3, 7, 18 * 4 + 16)
    assert layout.pair_width == 18 + 7 + 2 + 5
    rows = torch.arange(2 * 18.0).view(2, 18)
    assert layout.value("observation.grid", rows).shape == (2, 2, 3)
    assert layout.value("observation.mode", rows).tolist() == [6, 24]
    assert layout.action(rows).tolist() == [[7, 8], [25, 26]]
    assert layout.action(rows).dtype == torch.int64
    parts = layout.observation(rows, {"observation.eye": torch.zeros(2, 4, 4, dtype=torch.uint8)})
    assert isinstance(parts, dict)
    assert set(parts) == {"eye", "mode", "grid"}


def test_values_are_views_of_the_rows() -> None:
    layout, rows = RowLayout.of(SPEC), torch.zeros(3, 8)
    observation = layout.observation(rows, {})
    assert isinstance(observation, torch.Tensor)
    rows += 1
    assert observation.tolist() == [[1, 1]] * 3
    assert layout.action(rows).tolist() == [[1]] * 3


def test_a_matrix_of_actions_is_flat() -> None:
    layout = RowLayout.of(Spec(SPEC.observation_space, spaces.Box(-1, 1, (2, 3))))
    assert dict(layout.columns)["action"] == (6,)


def test_transforms_by_hand() -> None:
    transforms = Transforms(
        ObservationNormalizer(np.array([1.0, 2.0]), np.array([2.0, 4.0]), eps=0.0),
        RewardScaler(2.0, 1.0),
        ActionMap(np.array([0.0], np.float32), np.array([4.0], np.float32)),
    )
    assert transforms.apply("observation", np.array([[3.0, 6.0]])).tolist() == [[1.0, 1.0]]
    assert transforms.apply("action", np.array([[4.0], [1.0]])).tolist() == [[1.0], [-0.5]]
    assert transforms.apply("reward", np.array([3.0, 0.0])).tolist() == [[7.0], [1.0]]
    assert transforms.apply("behavior_log_prob", np.array([0.0])).item() == np.float32(np.log(2.0))
    flags = transforms.apply("terminated", np.array([True, False]))
    assert flags.dtype == np.float32
    assert flags.tolist() == [[1.0], [0.0]]


def test_unknown_masks_allow_everything() -> None:
    masks = np.array([[True, False], [False, False]])
    assert known_masks(masks).tolist() == known_masks(torch.from_numpy(masks)).tolist() == [[True, False], [True, True]]
