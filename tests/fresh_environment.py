"""A virtual environment in which packages can be installed, on top of the one that the tests run in."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.source import ROOT

SCRIPTS = {
    "offrl": "import sys\nfrom offrl_cli.main import main\nsys.exit(main())\n",
    "pip": "import sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n",
}


@dataclass(frozen=True)
class FreshEnvironment:
    """A virtual environment that sees all that is installed here, and a folder to work in.

    Attributes:
        variables: of the processes that run in it: no index, nothing that other environments or users set up.
        work: where commands run.
    """

    variables: dict[str, str]
    work: Path

    def run(self, script: str, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Lines of a shell script, which ends at the first one that fails."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.work,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def fresh_environment(folder: Path) -> FreshEnvironment:
    """Make one in an empty folder. Building packages needs the build backend in the environment that tests run in."""
    place, work, home = folder / "venv", folder / "work", folder / "home"
    venv.create(place, with_pip=False)
    for path in (work, home):
        path.mkdir()
    (packages,) = place.glob("lib/python*/site-packages")
    # A path file isn't followed to other path files, such as those of editable installations.
    seen = [str(ROOT), str(ROOT / "cli"), *(path for path in sys.path if path.endswith("-packages"))]
    (packages / "here.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")
    for name, code in SCRIPTS.items():
        script = place / "bin" / name
        script.write_text(f"#!{place / 'bin' / 'python'}\n{code}", encoding="utf-8")
        script.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "OFFRL"))}
    variables = {
        **kept,
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(place),
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        # It says whether there is isolation: of the options that begin with "no", pip reads a variable so.
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return FreshEnvironment(variables, work)
