"""Blocks of memory are used again, but never while somebody may still read them."""

from __future__ import annotations

import gc

import torch

from offrl.replay.huge_pages import RowPool, empty_rows

ROWS = 2**20  # large enough not to be left to PyTorch


def test_a_block_in_use_is_not_handed_out_again() -> None:
    pool = RowPool()
    first = pool.empty(ROWS, 1).fill_(1.0)
    kept = first[5:10, 0]  # a view keeps the whole block
    del first
    gc.collect()
    pool.empty(ROWS, 1).fill_(2.0)
    assert kept.tolist() == [1.0] * 5


def test_a_block_nobody_reads_is_used_again() -> None:
    pool = RowPool()
    first = pool.empty(ROWS, 1)
    address = first.data_ptr()
    del first
    gc.collect()
    assert pool.empty(ROWS - 3, 1).data_ptr() == address


def test_blocks_of_another_size_are_given_back() -> None:
    pool = RowPool()
    del_me = pool.empty(ROWS, 1)
    del del_me
    gc.collect()
    pool.empty(ROWS * 8, 1)
    assert [len(block) for block in pool._free if len(block) == 4 * ROWS] == []


def test_shapes_and_dtype() -> None:
    for rows in (0, 3, ROWS):
        for matrix in (RowPool().empty(rows, 7), empty_rows(rows, 7)):
            assert matrix.shape == (rows, 7)
            assert matrix.dtype == torch.float32
            matrix.fill_(3.0)
            assert bool((matrix == 3.0).all())
