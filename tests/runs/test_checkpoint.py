"""Checkpoints: what is written is read back, and no failure on the way harms what was there."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offrl import files
from offrl.errors import DiskFullError, RunError
from offrl.nn import MLP, Adam, seed_generators
from offrl.nn.state import restore_state, state_tensors
from offrl.runs import checkpoint
from offrl.runs.checkpoint import putting_back, read_facts, read_part, verify_checkpoint, write_checkpoint
from tests.runs.facts import facts_of
from tests.runs.full_disk import files_up_to


@dataclass
class State:
    network: MLP
    optimizer: Adam
    temperature: Tensor
    step: int = 0


def make_state(seed: int = 0) -> State:
    network = MLP(3, 2, (4,), seed_generators([seed, seed + 1]), ensemble=2, layer_norm=True)
    optimizer = Adam(network, 0.01)
    optimizer.minimize(network(torch.ones(2, 5, 3)).square().sum())
    return State(network, optimizer, torch.full((2,), float(seed)))


PARTS = {"state": {"w": torch.arange(6.0).reshape(2, 3)}, "noise": {"0": torch.tensor([1, 2], dtype=torch.uint8)}}
FACTS: dict[str, Any] = {**facts_of(7), "spaces": {"n": [1, 2.5]}}


def test_a_state_comes_back_bit_for_bit_and_trains_on_the_same(tmp_path: Path) -> None:
    state, other = make_state(0), make_state(5)
    write_checkpoint(tmp_path / "step-1", {"state": state_tensors(state)}, FACTS)
    restore_state(other, read_part(tmp_path / "step-1", "state"), "here")
    assert torch.equal(other.network.flat, state.network.flat)
    x = torch.randn(2, 5, 3)
    for one in (state, other):
        one.optimizer.minimize(one.network(x).square().sum())
    assert torch.equal(other.network.flat, state.network.flat)
    for name, tensor in state_tensors(state).items():
        assert torch.equal(tensor, state_tensors(other)[name]), name


def test_parts_and_facts_come_back(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "step-7", PARTS, FACTS)
    assert read_facts(tmp_path / "checkpoints" / "step-7") == FACTS
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-7"]
    for part, tensors in PARTS.items():
        read = read_part(tmp_path / "checkpoints" / "step-7", part)
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("part", list(PARTS))
def test_a_flipped_bit_is_found_before_a_part_is_used(tmp_path: Path, part: str) -> None:
    write_checkpoint(tmp_path / "step-7", PARTS, FACTS)
    verify_checkpoint(tmp_path / "step-7")
    read_part(tmp_path / "step-7", part)
    flip_a_bit(tmp_path / "step-7" / f"{part}.safetensors")
    with pytest.raises(RunError, match=f"checksum(.|\n)*{part}.safetensors"):
        read_part(tmp_path / "step-7", part)
    with pytest.raises(RunError, match=f"checksum(.|\n)*{part}.safetensors"):
        verify_checkpoint(tmp_path / "step-7")


def test_changed_facts_are_found(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-7", PARTS, FACTS)
    facts = tmp_path / "step-7" / "facts.json"
    facts.write_text(facts.read_text().replace('"step": 7', '"step": 8'))
    with pytest.raises(RunError, match=r"checksum(.|\n)*facts\.json"):
        read_facts(tmp_path / "step-7")


@pytest.mark.parametrize("text", ["3", "[]", '{"checksums": 3}', '{"checksums": {"state.safetensors": 3}}'])
def test_facts_that_are_something_else_are_refused(tmp_path: Path, text: str) -> None:
    write_checkpoint(tmp_path / "step-7", PARTS, FACTS)
    (tmp_path / "step-7" / "facts.json").write_text(text)
    with pytest.raises(RunError):
        read_facts(tmp_path / "step-7")


def test_checkpoints_without_checksums_are_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-7", PARTS, FACTS)
    (tmp_path / "step-7" / "facts.json").write_text(json.dumps(FACTS))
    assert read_facts(tmp_path / "step-7") == FACTS
    verify_checkpoint(tmp_path / "step-7")
    assert torch.equal(read_part(tmp_path / "step-7", "state")["w"], PARTS["state"]["w"])


def test_all_files_are_as_readable_as_others_are(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-7", PARTS, FACTS)
    (tmp_path / "ordinary").touch()
    files = [tmp_path / "ordinary", *(tmp_path / "step-7").iterdir()]
    assert len({path.stat().st_mode for path in files}) == 1


def test_tensors_that_are_not_contiguous_come_back(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    write_checkpoint(tmp_path / "c", {"p": {"t": matrix.T, "row": matrix[:, 1]}}, {})
    assert torch.equal(read_part(tmp_path / "c", "p")["t"], matrix.T)
    assert read_part(tmp_path / "c", "p")["row"].tolist() == [1.0, 4.0]


def test_tensors_that_share_memory_come_back(tmp_path: Path) -> None:
    """As tied weights do: safetensors itself refuses them."""
    weight = torch.arange(6.0).reshape(2, 3)
    write_checkpoint(tmp_path / "c", {"p": {"encoder": weight, "decoder": weight, "row": weight[1]}}, {})
    read = read_part(tmp_path / "c", "p")
    assert torch.equal(read["encoder"], weight)
    assert torch.equal(read["decoder"], weight)
    assert read["row"].tolist() == [3.0, 4.0, 5.0]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text"])
def test_a_damaged_part_is_an_error_that_names_the_place(damage: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-7", PARTS, FACTS)
    for name in ("state.safetensors", "facts.json"):
        path = tmp_path / "step-7" / name
        content = path.read_bytes()
        match damage:
            case "missing":
                path.unlink()
            case "empty":
                path.write_bytes(b"")
            case "cut":
                path.write_bytes(content[:-10])
            case "text":
                path.write_bytes(b"\xff not a checkpoint")
    with pytest.raises(RunError, match="step-7"):
        read_part(tmp_path / "step-7", "state")
    with pytest.raises(RunError, match="step-7"):
        read_facts(tmp_path / "step-7")


class Killed(BaseException):
    """Stands for a process that ends here."""


@pytest.mark.parametrize("function", ["mkdir", "save_file", "sync", "replace"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_at_any_point_leaves_the_checkpoint_before(
    function: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "step-1", PARTS, FACTS)
    owner = {"mkdir": Path, "save_file": checkpoint, "sync": files, "replace": os}
    calls = 0
    original = getattr(owner[function], function)

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return original(*arguments, **options)

    changed = {"state": {"w": torch.full((2, 3), 9.0)}, "noise": {"0": torch.zeros(2)}}
    with monkeypatch.context() as patch:
        patch.setattr(owner[function], function, dying)
        try:
            write_checkpoint(tmp_path / "step-2", changed, facts_of(8))
        except Killed:
            assert not (tmp_path / "step-2").exists()
    assert calls > 0
    assert read_facts(tmp_path / "step-1") == FACTS
    assert torch.equal(read_part(tmp_path / "step-1", "state")["w"], PARTS["state"]["w"])
    # The next one takes the place of what the kill left.
    write_checkpoint(tmp_path / "step-2", changed, facts_of(8))
    assert read_facts(tmp_path / "step-2") == facts_of(8)
    assert read_part(tmp_path / "step-2", "state")["w"].eq(9.0).all()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("step")) == ["step-1", "step-2"]


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-1", PARTS, FACTS)
    with files_up_to(4096), pytest.raises(DiskFullError) as caught:
        write_checkpoint(tmp_path / "step-2", {"state": {"w": torch.zeros(100_000)}}, FACTS)
    assert "step-2" in str(caught.value)
    assert "--resume" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("step")) == ["step-1"]
    assert torch.equal(read_part(tmp_path / "step-1", "state")["w"], PARTS["state"]["w"])


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EACCES, RunError)]
)
def test_a_failed_write_says_why(
    number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "save_file", failing)
    with pytest.raises(kind, match=os.strerror(number)):
        write_checkpoint(tmp_path / "step-2", PARTS, FACTS)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("step")]


@pytest.mark.parametrize(
    ("error", "told"), [(KeyError("ring"), "'ring' is missing"), (RuntimeError("Invalid state"), "Invalid state")]
)
def test_what_can_not_take_back_its_part_names_the_checkpoint(error: Exception, told: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{told}\n.*step-7"), putting_back(tmp_path / "step-7"):
        raise error
