"""The check for a CUDA device, small and on the CPU; and that it needs little beside PyTorch, as on a bare machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ABSENT = (
    "h5py",
    "matplotlib",
    "minari",
    "mujoco",
    "pandas",
    "pyarrow",
    "pydantic",
    "pydantic_core",
    "rich",
    "safetensors",
    "scipy",
    "typer",
)
WITHOUT = f"""
import runpy, sys

class Present:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Present, sys.meta_path)
"""
AGENTS = {"td3", "sac", "bc", "ppo", "iql", "awac", "rebrac", "cql", "edac", "rlpd"}


def run_without(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python, where only PyTorch, NumPy, Gymnasium and small pure packages can be imported."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_block_blocks() -> None:
    assert "No module named 'pydantic'" in run_without("import pydantic").stderr
    assert run_without("import offrl.data.store").returncode == 1


@pytest.mark.parametrize("name", ["td3", "sac", "bc", "ppo", "dqn", "gail", "airl", "sqil", "irl"])
def test_an_agent_imports_nothing_that_checks_or_reads_files(name: str) -> None:
    done = run_without(f"import offrl.agents.{name}")
    assert done.returncode == 0, done.stderr


def test_options_made_in_python_need_no_validation() -> None:
    done = run_without("from offrl.agents.td3 import TD3Config; print(TD3Config(bc_alpha=2.5).bc_alpha)")
    assert done.stdout == "2.5\n", done.stderr


def test_the_check_holds_on_the_cpu() -> None:
    check = f"sys.argv[0] = 'check.py'; runpy.run_path({str(ROOT / 'tests/device/check.py')!r}, run_name='__main__')"
    done = run_without(check, "--small", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report.keys() == {
        "device",
        "torch",
        "cuda",
        "threads",
        "captured_equals_eager",
        "resumed",
        "updates_per_second",
        "targets",
        "holds",
        "seconds",
    }
    assert report["holds"]
    for kind in ("captured_equals_eager", "resumed"):
        assert report[kind].keys() == AGENTS
        assert all(part["holds"] for part in report[kind].values())
    # Nothing was compared with itself: a traced replay rounds otherwise.
    assert any(part["difference"] > 0.0 for part in report["captured_equals_eager"].values())
    assert report["updates_per_second"].keys() == AGENTS
    for rates in report["updates_per_second"].values():
        for how in ("captured", "eager"):
            assert rates[how].keys() == {"1", "2"}
            assert all(rate > 0.0 for rate in rates[how].values())
    assert [target["seeds"] for target in report["targets"]] == [1, 64]
