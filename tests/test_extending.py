"""What docs/extending.md says, done word for word: its files, its commands, and what these print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fresh_environment import FreshEnvironment, fresh_environment
from tests.source import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILE = re.compile(r"^\*\*(\S+)\*\*\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
AWAC_BEATS_CLONING_BY = 50.0
"""Of the mean return, -575 or so of a clone."""


@dataclass(frozen=True)
class Ran:
    """A block of commands: as the page has it, and what came of it."""

    commands: str
    shown: str
    printed: str


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    made = fresh_environment(tmp_path_factory.mktemp("extending"))
    for name, content in FILE.findall(PAGE):
        path = made.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def ran(environment: FreshEnvironment) -> list[Ran]:
    """All blocks in their order."""
    blocks = []
    for commands, shown in COMMANDS.findall(PAGE):
        result = environment.run(commands)
        assert result.returncode == 0, f"{commands}\n{result.stdout}\n{result.stderr}"
        printed = result.stdout.replace(environment.variables["HOME"], "/home/you")
        blocks.append(Ran(commands, shown, re.sub(" +$", "", printed, flags=re.MULTILINE)))
    return blocks


def skeleton(text: str) -> list[str]:
    """Lines without their numbers, and without how wide columns are."""
    lines = (re.sub(r"\s+", " ", re.sub("─+", "─", NUMBER.sub("#", line))).strip() for line in text.splitlines())
    return [line for line in lines if line]


def mean_return(blocks: list[Ran], command: str) -> float:
    (printed,) = (block.printed for block in blocks if block.commands.startswith(command))
    found = re.search(r"^mean return\s+(-?[\d,.]+)", printed, re.MULTILINE)
    assert found is not None
    return float(found[1].replace(",", ""))


def test_the_page_shows_every_file_of_the_folder() -> None:
    (tree,) = re.findall(r"^```text\noffrl-extras/\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    listed = {line.strip() for line in tree.splitlines() if not line.endswith("/")}
    assert {Path(name).name for name, _ in FILE.findall(PAGE) if name.startswith("offrl-extras/")} == listed


def test_all_that_the_page_says_happens(ran: list[Ran]) -> None:
    assert len(ran) == 9
    for block in ran:
        if block.shown:
            assert skeleton(block.printed) == skeleton(block.shown), block.commands


def test_what_does_not_hang_on_the_machine_is_shown_to_the_letter(ran: list[Ran]) -> None:
    (block,) = (block for block in ran if block.commands.startswith("offrl convert"))
    assert block.printed == block.shown


def test_awac_learns_what_cloning_does_not(ran: list[Ran]) -> None:
    cloned, learned = mean_return(ran, "offrl train bc --dataset pendulum"), mean_return(ran, "offrl train my-awac")
    assert learned > cloned + AWAC_BEATS_CLONING_BY
    assert mean_return(ran, "offrl finetune") > cloned + AWAC_BEATS_CLONING_BY


def test_the_help_lists_the_format(environment: FreshEnvironment, ran: list[Ran]) -> None:
    assert "arm-log" in environment.run("offrl convert --help").stdout
