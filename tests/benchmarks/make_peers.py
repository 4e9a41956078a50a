"""Make one virtual environment for each library that the benchmarks compare with.

    python -m tests.benchmarks.make_peers [--root .venvs] [PEER …]

Each gets the exact versions in peers/PEER.txt and the PyTorch that constraints.txt pins, resolved together so that pip
doesn't fetch another one first.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PEERS = tuple(sorted(path.stem for path in (HERE / "peers").glob("*.txt")))


def default_root() -> Path:
    """Where the environments are: $OFFRL_BENCH_VENVS, or .venvs in the repository."""
    return Path(os.environ.get("OFFRL_BENCH_VENVS") or REPOSITORY / ".venvs")


def interpreter(peer: str, root: Path) -> Path:
    return root / peer / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def torch_pin(constraints: str) -> str:
    """The line of constraints.txt that pins PyTorch."""
    match = re.search(r"^torch==\S+$", constraints, re.MULTILINE)
    if match is None:
        raise SystemExit("constraints.txt doesn't pin torch")
    return match.group()


def make(peer: str, root: Path) -> None:
    """Create the environment where it isn't there, and install what is pinned for it."""
    python = interpreter(peer, root)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", root / peer], check=True)
    pin = torch_pin((REPOSITORY / "constraints.txt").read_text())
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "peers" / f"{peer}.txt", pin], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the environments of the libraries to compare with.")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"which: {', '.join(PEERS)} (all)")
    parser.add_argument("--root", type=Path, default=default_root(), help="where to make them (%(default)s)")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.peers) - set(PEERS)):
        parser.error(f"no such peer: {', '.join(unknown)} (there are {', '.join(PEERS)})")
    for peer in arguments.peers or PEERS:
        print(f"{peer}: {arguments.root / peer}", flush=True)
        make(peer, arguments.root)


if __name__ == "__main__":
    main()
