"""Tensors in structures: mapped, listed by name, and set back row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from offrl.ops.trees import reset_rows, tree_leaves, tree_map


class Pair(NamedTuple):
    """Two parts."""

    first: Any
    second: Any


@dataclass(frozen=True)
class Part:
    """Two fields, and one that is no tensor."""

    one: Any
    other: Any = None
    name: str = "part"


class Lazy(Mapping[str, Tensor]):
    """A mapping that isn't a dict."""

    def __getitem__(self, key: str) -> Tensor:
        return torch.full((1,), float(len(key)))

    def __iter__(self) -> Iterator[str]:
        return iter(("a", "bb"))

    def __len__(self) -> int:
        return 2


def tree(value: float) -> Any:
    """One of everything."""
    tensor = torch.full((2,), value)
    return {
        "tuple": (tensor, [tensor + 1.0, 7]),
        "pair": Pair(tensor + 2.0, None),
        "part": Part(tensor + 3.0, {"deep": Part((tensor + 4.0,))}),
        "text": "as it is",
        "none": (),
    }


def test_every_tensor_has_its_place() -> None:
    names = {name: leaf[0].item() for name, leaf in tree_leaves(tree(0.0))}
    assert names == {"tuple.0": 0.0, "tuple.1.0": 1.0, "pair.first": 2.0, "part.one": 3.0, "part.other.deep.one.0": 4.0}
    assert list(names) == ["tuple.0", "tuple.1.0", "pair.first", "part.one", "part.other.deep.one.0"]
    (alone,) = tree_leaves(torch.ones(1))
    assert alone[0] == ""
    assert list(tree_leaves(())) == list(tree_leaves(None)) == list(tree_leaves(3.0)) == []


def test_functions_are_mapped_and_the_structure_is_kept() -> None:
    original = tree(0.0)
    doubled = tree_map(lambda tensor: 2.0 * tensor, original)
    assert [leaf.tolist() for _, leaf in tree_leaves(doubled)] == [[2.0 * n] * 2 for n in range(5)]
    assert doubled["tuple"][1][1] == 7
    assert (doubled["text"], doubled["none"], doubled["pair"].second) == ("as it is", (), None)
    kinds = [type(doubled[name]) for name in ("tuple", "pair", "part", "none")]
    assert kinds == [tuple, Pair, Part, tuple]
    assert isinstance(doubled["tuple"][1], list)
    assert (doubled["part"].name, type(doubled["part"].other["deep"])) == ("part", Part)
    # The tree that it came from is as it was.
    assert original["part"].one.tolist() == [3.0, 3.0]


def test_several_trees_are_mapped_together() -> None:
    total = tree_map(lambda *each: sum(each), tree(0.0), tree(10.0), tree(100.0))
    assert [leaf[0].item() for _, leaf in tree_leaves(total)] == [110.0 + 3 * n for n in range(5)]


def test_other_mappings_are_walked_as_well() -> None:
    assert [(name, leaf.item()) for name, leaf in tree_leaves(Lazy())] == [("a", 1.0), ("bb", 2.0)]
    assert {key: value.item() for key, value in tree_map(torch.neg, Lazy()).items()} == {"a": -1.0, "bb": -2.0}


@pytest.mark.parametrize("other", [(torch.ones(1),), (torch.ones(1), torch.ones(1), torch.ones(1))])
def test_trees_of_other_lengths_are_not_mapped_together(other: Any) -> None:
    with pytest.raises(ValueError, match="zip"):
        tree_map(torch.add, (torch.ones(1), torch.ones(1)), other)


def test_types_of_dataclasses_are_no_trees() -> None:
    assert tree_map(torch.neg, Part) is Part
    assert list(tree_leaves(Part)) == []


def test_rows_that_ended_are_set_back() -> None:
    """Of two seeds' three rows, whatever else a part's axes are and whatever it holds."""

    def carry(value: float) -> Any:
        return {
            "vector": torch.full((2, 3, 4), value),
            "matrix": Pair(torch.full((2, 3, 2, 2), value), torch.full((2, 3), int(value))),
        }

    ended = torch.tensor([[True, False, False], [False, False, True]])
    found = reset_rows(carry(5.0), carry(1.0), ended)
    expected = torch.where(ended, 1.0, 5.0)
    for _, leaf in tree_leaves(found):
        rows = leaf.float().reshape(*leaf.shape[:2], -1)
        assert torch.equal(rows, expected[..., None].expand_as(rows))
    assert found["matrix"].second.dtype == torch.int64
    assert reset_rows((), (), ended) == ()


def test_a_carry_is_not_changed_in_place() -> None:
    """Another one may still be looked at: what an off-policy evaluation keeps of each step."""
    carry, initial = torch.full((1, 2, 3), 5.0), torch.zeros(1, 2, 3)
    reset_rows(carry, initial, torch.tensor([[True, False]]))
    assert carry.eq(5.0).all()
    assert initial.eq(0.0).all()
