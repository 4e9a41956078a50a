"""What every test shares: one thread for PyTorch, and a home directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

# Small products on several threads are slower than on one, and tests run beside each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def offrl_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point OFFRL_HOME at a temporary directory, so that no test reads or writes the user's cache."""
    home = tmp_path / "offrl-home"
    monkeypatch.setenv("OFFRL_HOME", str(home))
    return home
