"""The same seeds give the same networks, today as when the numbers were stored."""

from __future__ import annotations

import json

import pytest

from tests.golden.learning import AGENTS, STORED, summarize


@pytest.mark.parametrize("name", AGENTS)
def test_training_ends_where_it_did(name: str) -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))[name]
    measured = summarize(AGENTS[name])
    assert measured.keys() == stored.keys()
    for network, seeds in measured.items():
        for (total, size), (stored_total, stored_size) in zip(seeds, stored[network], strict=True):
            assert size == pytest.approx(stored_size, rel=1e-5), network
            # Terms of both signs cancel in the sum: its error is relative to their absolute sum.
            assert total == pytest.approx(stored_total, abs=1e-5 * stored_size), network


def test_every_agent_is_stored() -> None:
    assert json.loads(STORED.read_text(encoding="utf-8")).keys() == AGENTS.keys()


@pytest.mark.parametrize("name", AGENTS)
def test_training_twice_ends_the_same(name: str) -> None:
    assert summarize(AGENTS[name]) == summarize(AGENTS[name])
