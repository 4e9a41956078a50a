"""The command as such: help, version, speed of starting."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import offrl as library
from offrl import plugins
from offrl.data.store import TrajectoryStore
from offrl.types import StartsFromPolicy
from tests.cli.conftest import Offrl

COMMANDS = ("train", "finetune", "evaluate", "collect", "export", "convert", "plot", "relabel", "datasets", "recipes")
HEAVY = {"torch", "numpy", "pandas", "pyarrow", "matplotlib", "pydantic", "gymnasium", "minari", "h5py", "rich"}


def test_help_names_every_command(offrl: Offrl) -> None:
    result = offrl("--help")
    assert result.code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert set(COMMANDS) <= set(listed)


@pytest.mark.parametrize(
    "arguments",
    [
        *((name,) for name in COMMANDS if name not in ("datasets", "recipes")),
        *(("recipes", name) for name in ("list", "show", "run")),
        *(("datasets", name) for name in ("list", "info", "validate", "export", "pull", "make")),
    ],
    ids=" ".join,
)
def test_each_command_explains_itself_with_an_example(offrl: Offrl, arguments: tuple[str, ...]) -> None:
    result = offrl(*arguments, "--help")
    assert result.code == 0
    assert f"Example: offrl {' '.join(arguments)}" in result.stdout
    assert "--json" in result.stdout


def test_the_help_of_train_names_every_algorithm(offrl: Offrl) -> None:
    text = " ".join(offrl("train", "--help").stdout.split()).partition("The algorithm:")[2].partition(".")[0]
    assert {name for name in plugins.algorithms if name in text.replace(",", " ").split()} == set(plugins.algorithms)


def test_the_help_of_finetune_names_what_starts_from_a_cloned_policy(offrl: Offrl) -> None:
    text = " ".join(offrl("finetune", "--help").stdout.split())
    text = text.partition("Go on with")[2].partition("from a policy")[0]
    named = {name for name in plugins.algorithms if name in text.replace(",", " ").split()}
    assert named
    assert all(plugins.algorithms[name].can(StartsFromPolicy) for name in named)


def test_version(offrl: Offrl) -> None:
    assert offrl("--version").stdout == f"offrl {library.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["train", "--nosuch"], ["evaluate"], ["train", "bc", "--steps", "x"]]
)
def test_a_wrong_command_line_exits_with_2(offrl: Offrl, arguments: list[str]) -> None:
    result = offrl(*arguments)
    assert (result.code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        *((name,) for name in (*COMMANDS, "ope")),
        *(("recipes", name) for name in ("show", "run")),
        *(("datasets", name) for name in ("info", "validate", "export", "pull", "make")),
    ],
    ids=" ".join,
)
def test_a_command_without_arguments_says_what_it_needs(offrl: Offrl, arguments: tuple[str, ...]) -> None:
    result = offrl(*arguments)
    assert result.code == 2
    assert "Usage: " in result.stdout + result.stderr or result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_ctrl_c_before_a_command_has_begun_is_told_in_a_word(offrl: Offrl, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("offrl_cli.main.app", stopped)
    result = offrl("datasets", "list")
    assert (result.code, result.stdout, result.stderr) == (130, "", "Interrupted\n")


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, offrl_cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert HEAVY & set(printed.split()) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        *(["datasets", name, "cartpole-expert"] for name in ("info", "validate")),
        *([name, "list"] for name in ("datasets", "recipes")),
        ["train", "--help"],
    ],
    ids=" ".join,
)
def test_what_neither_learns_nor_acts_imports_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys, offrl_cli.main\n"
        f"try: offrl_cli.main.main({arguments!r})\n"
        "except SystemExit as done: print('torch' in sys.modules, done.code, file=sys.stderr)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert printed.splitlines()[-1].split() == ["False", "0"]


def test_an_environment_of_one_s_own_is_found_in_the_folder_one_is_in(tmp_path: Path) -> None:
    entry = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    (tmp_path / "my_envs.py").write_text(f"import gymnasium\ngymnasium.register('Pole-v0', entry_point='{entry}')\n")
    code = "from offrl_cli.main import main; main()"
    options = ["--random", "--env", "my_envs:Pole-v0", "--episodes", "2", "--out", str(tmp_path / "poles")]
    # -P, as a console script has it: nothing but main puts the folder among those that are searched.
    subprocess.run([sys.executable, "-P", "-c", code, "collect", *options], cwd=tmp_path, check=True)
    assert TrajectoryStore.open(tmp_path / "poles").num_episodes == 2


def test_nothing_is_imported_from_the_folder_one_is_in_unless_it_is_named(tmp_path: Path) -> None:
    # Packages that are tried for, and needn't be installed, are what a folder of data could bring along.
    wanted = ("jax", "bottleneck", "numexpr", "IPython", "cv2", "pygame", "usercustomize", "foreign_package")
    for name in wanted:
        (tmp_path / f"{name}.py").write_text("open('RAN', 'a').write(__name__)")
    code = (
        "import offrl_cli.main\n"
        "try: offrl_cli.main.main(['collect', '--random', '--env', 'CartPole-v1', '--episodes', '1', '--out', 'x'])\n"
        "except SystemExit as done: assert not done.code\n"
        "try: import foreign_package\n"
        "except ImportError: pass\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("arguments", "limit"),
    [(["--help"], 0.3), (["train", "--help"], 0.3), (["datasets", "list"], 0.5), (["recipes", "list"], 0.5)],
)
def test_commands_start_at_once(arguments: list[str], limit: float) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "from offrl_cli.main import main; main()", *arguments], stdout=-3, check=True
        )
        return time.perf_counter() - start

    assert statistics.median(seconds() for _ in range(5)) < limit
