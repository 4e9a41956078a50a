"""The report: a picture that isn't empty, and a page that needs nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.plan import Plan, Target
from offrl.off_policy.results import Evaluation
from offrl.off_policy.target_policies import TablePolicy
from offrl.reports.ope_page import write_report
from tests.off_policy.tabular import BEHAVIOR, TARGET, TabularMDP


class Page(HTMLParser):
    """The tags of a page, those left open, and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    logged = TabularMDP.random(limit=5).log(BEHAVIOR, 60)
    targets = [
        Target(name, TablePolicy(table).choices(logged, draws=1, seed=0), true_returns=np.array([1.0, 2.0]))
        for name, table in (("one <&> two", TARGET), ("never", np.array([[1.0, 0.0]] * 4)))
    ]
    return evaluate(logged, targets, Plan(estimators=["is", "wis"], resamples=60, clip=2.0, rank_by="is"))


def test_both_files_hold_it_all(evaluation: Evaluation, tmp_path: Path) -> None:
    picture, page = write_report(evaluation, tmp_path / "new" / "report.png")
    assert (picture.name, page.name) == ("report.png", "report.html")
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text(encoding="utf-8")
    read = Page(text)
    assert read.open == []
    assert all(reference.startswith("data:") for reference in read.references)
    assert not re.search(r"https?://", text)
    assert "nan" not in " ".join(read.cells).lower()
    assert read.cells.count("wis") == 2
    assert "one &lt;&amp;&gt; two" in text
    assert "weights were cut to 2" in text


def test_the_picture_has_a_row_for_each_policy(evaluation: Evaluation, tmp_path: Path) -> None:
    from matplotlib.image import imread

    picture, _ = write_report(evaluation, tmp_path / "report")
    pixels = imread(picture)
    height, width = pixels.shape[:2]
    for half in (pixels[: height // 2], pixels[height // 2 :]):
        for part in np.array_split(half[..., :3], 3, axis=1):
            assert part.std() > 0.02
    assert width > height > 600


@pytest.mark.slow
def test_a_browser_without_a_network_finds_nothing_wrong(evaluation: Evaluation, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium")
    _, page = write_report(evaluation, tmp_path / "report")
    shot = tmp_path / "shot.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--proxy-server=127.0.0.1:9"]
    done = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert shot.read_bytes().startswith(b"\x89PNG")


def test_a_name_is_no_mathematics_and_an_infinite_value_is_at_the_edge(evaluation: Evaluation, tmp_path: Path) -> None:
    first, second = evaluation.policies
    endless = [replace(each, value=value, interval=None) for each in first.estimates for value in (np.inf, -np.inf)]
    policies = (replace(first, name=r"a$\frac{b$", estimates=tuple(endless)), second)
    behavior = replace(evaluation.behavior, value=np.inf)
    picture, page = write_report(replace(evaluation, policies=policies, behavior=behavior), tmp_path / "report")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert r"a$\frac{b$" in page.read_text(encoding="utf-8")
