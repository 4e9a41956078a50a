"""An installed package that adds one of each kind, used from the command line as offrl's own are."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fresh_environment import FreshEnvironment, fresh_environment

PACKAGE = Path(__file__).parent / "plugins_package"
TRAIN = "offrl train tiny --dataset cartpole-random --steps 20 --seeds 2 --set log_every=10 --eval-episodes 1"
OPE = "offrl ope runs/tiny --dataset cartpole-random --stochastic --horizon 5 --resamples 50 --json --estimators"
CONVERT = "offrl convert log.csv --dry-run --from"
MISSPELT = [
    "offrl train tinny --dataset cartpole-random",
    f"{TRAIN} --writers tinny",
    f"{OPE} tinny",
    f"{CONVERT} tinny",
]
BROKEN = {
    "offrl train broken --dataset cartpole-random": "algorithm",
    "offrl train tiny-unfed --dataset cartpole-random": "feed",
    f"{TRAIN} --writers broken": "logger",
    f"{CONVERT} broken": "format",
    f"{OPE} broken": "estimator",
}
WRONG = [f"{TRAIN} --writers wrong", f"{CONVERT} wrong", f"{OPE} wrong"]
EACH = """
import contextlib, io, json, shlex, sys
from offrl_cli.main import main

for line in sys.stdin:
    code, said = 0, io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(shlex.split(line)[1:])
        except SystemExit as exit_:
            code = exit_.code
    print(json.dumps([code, said.getvalue()]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    """An environment with the package, and a run of its algorithm."""
    made = fresh_environment(tmp_path_factory.mktemp("plugins"))
    shutil.copytree(PACKAGE, made.work / "package")
    (made.work / "log.tiny").write_text("1 0.5\n0 0.25\n1 2.0\nend\n")
    (made.work / "log.csv").write_text(
        "observation,action,reward,terminated,truncated\n0.5,0,1.0,0,0\n0.25,1,2.0,1,0\n"
    )
    done(made, "pip install ./package")
    done(made, f"{TRAIN} --writers tiny,csv --out runs/tiny")
    return made


def done(environment: FreshEnvironment, command: str) -> subprocess.CompletedProcess[str]:
    result = environment.run(command)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def refusals(installed: FreshEnvironment) -> dict[str, str]:
    """What each command says that fails as it should, all in one process, since each would import PyTorch anew."""
    commands = [*MISSPELT, *BROKEN, *WRONG]
    (installed.work / "each.py").write_text(EACH)
    result = installed.run(f"python each.py <<'END'\n{chr(10).join(commands)}\nEND")
    assert result.returncode == 0, result.stderr
    said = dict(zip(commands, map(json.loads, result.stdout.splitlines()), strict=True))
    for command, (code, message) in said.items():
        assert code in (1, 2), command
        assert "Traceback" not in message
    # Lines before it tell of progress.
    return {command: message[message.index("Error: ") :] for command, (_, message) in said.items()}


def test_an_algorithm_and_its_feed_train(installed: FreshEnvironment) -> None:
    run = installed.work / "runs" / "tiny"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    # A batch for every two updates: a tenth of what the log would say of a feed that is called for each step alone.
    assert [line["batches_drawn"] for line in lines] == [[10, 10], [20, 20]]
    assert all(len(line["tiny_loss"]) == 2 for line in lines)
    assert "learning_rate = 0.01" in done(installed, "offrl recipes show tiny").stdout


def test_a_logger_writes_beside_offrls_own(installed: FreshEnvironment) -> None:
    run = installed.work / "runs" / "tiny"
    told = ["from 0", "step 10: 2 losses", "step 20: 2 losses", "closed"]
    assert (run / "tiny.txt").read_text().splitlines() == told
    assert (run / "metrics.csv").read_text().startswith("step,seed,metric,value\n10,0,tiny_loss,")


def test_a_run_of_an_algorithm_goes_on_is_evaluated_and_exported(installed: FreshEnvironment) -> None:
    shutil.copytree(installed.work / "runs" / "tiny", installed.work / "runs" / "longer")
    done(installed, "offrl train --resume runs/longer --steps 30")
    assert (
        (installed.work / "runs" / "longer" / "tiny.txt")
        .read_text()
        .endswith("closed\nfrom 21\nstep 30: 2 losses\nclosed\n")
    )
    scores = json.loads(done(installed, "offrl evaluate runs/longer --episodes 1 --json").stdout)
    assert len(scores["returns"]) == 2
    done(installed, "offrl export runs/longer --seed 1 --format torchscript --out policy.pt")
    assert (installed.work / "policy.pt").is_file()


def test_a_format_is_told_by_its_suffix(installed: FreshEnvironment) -> None:
    report = json.loads(done(installed, "offrl convert log.tiny mine --json").stdout)
    assert (report["format"], report["steps"], report["terminated"]) == ("tiny", 3, 1)
    found = json.loads(done(installed, "offrl datasets info mine --json").stdout)
    assert found["name"] == "mine"


def test_an_estimator_answers_beside_offrls_own(installed: FreshEnvironment) -> None:
    (policy, _) = json.loads(done(installed, f"{OPE} pdis,tiny").stdout)["policies"]
    values = {each["name"]: each["value"] for each in policy["estimates"]}
    assert list(values) == ["pdis", "tiny"]
    # No episode of CartPole ends within five steps.
    assert values["tiny"] == pytest.approx(sum(0.99**t for t in range(5)))


def test_names_are_listed_where_all_are(installed: FreshEnvironment) -> None:
    formats = done(installed, "offrl convert --help").stdout.partition("Formats:")[2]
    assert {"broken", "csv", "tiny"} <= set(formats.replace(",", " ").split())


@pytest.mark.parametrize("command", MISSPELT)
def test_names_are_among_those_that_a_misspelt_one_leads_to(refusals: dict[str, str], command: str) -> None:
    assert "did you mean tiny?" in refusals[command]


@pytest.mark.parametrize("command", BROKEN)
def test_what_does_not_load_is_told_once_it_is_named(refusals: dict[str, str], command: str) -> None:
    assert (
        f"the {BROKEN[command]} 'broken' can't be loaded: RuntimeError: made for another version" in refusals[command]
    )
    assert "of offrl-tiny 0.3" in refusals[command]


@pytest.mark.parametrize("command", WRONG)
def test_what_is_of_another_kind_is_told(refusals: dict[str, str], command: str) -> None:
    assert "'wrong' is" in refusals[command]
    assert "offrl-tiny 0.3" in refusals[command]


def test_offrls_own_names_are_not_replaced(installed: FreshEnvironment) -> None:
    """The package names modules that raise as `bc`, `csv`, `pdis` and `dataset` too."""
    assert json.loads(done(installed, "offrl convert log.csv --dry-run --json").stdout)["format"] == "csv"
    # The loggers and estimators of those names have done their work above, the algorithm and the feed do it here.
    done(installed, "offrl train bc --dataset cartpole-random --steps 1 --eval-episodes 1 --out runs/clone")
