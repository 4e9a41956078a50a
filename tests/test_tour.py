"""The tour, `examples/tour.ipynb`: it runs whole and shows what its text says, and what is stored in it was so made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parent.parent / "examples" / "tour.ipynb"


def shown(notebook: Any) -> str:
    """Everything that its cells show as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def pictures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def mean_returns(text: str) -> list[float]:
    """Those of the evaluations that are printed, in their order."""
    return [float(value.replace(",", "")) for value in re.findall(r"^mean return +(-?[\d,.]+) ±", text, re.MULTILINE)]


def require_promises(notebook: Any) -> None:
    """Its text says: TD3+BC does far better than the clone, estimates are near the truth, the file acts alike."""
    text = shown(notebook)
    clone, improved = mean_returns(text)
    assert clone < -900.0
    assert improved > -600.0
    assert "TrajectoryStore 'swing-up': 60 episodes, 11,940 steps" in text
    assert re.search(r"^step 8,000 of 8,000, .* left, critic_loss ", text, re.MULTILINE)
    values = re.findall(r"^\d +(?:early|later) +\w+ +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    assert len(values) == 6
    for value, low, high, truth in (map(float, row) for row in values):
        assert low <= value <= high
        assert abs(value - truth) < 2.0
    (degrees,) = re.findall(r"as before, within (\S+) degrees", text)
    assert float(degrees) < 0.1
    assert pictures(notebook) == 5


def test_the_tour_runs_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Its temporary files too.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(TOUR, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    require_promises(notebook)


def test_what_is_stored_in_the_tour_was_made_by_running_it_in_order() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    require_promises(notebook)


def test_nothing_that_is_stored_in_the_tour_tells_of_a_machine() -> None:
    stored = shown(nbformat.read(TOUR, as_version=4))
    assert not re.search(r"(?<![\w.])/(tmp|home|root|Users|work|usr|var|opt)/", stored)
