"""Freed memory stays with the process, so that using it again costs no page faults."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from offrl.nn.malloc import keep_freed_memory

PROGRAM = """
import ctypes, resource, sys
from offrl.nn.malloc import keep_freed_memory

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for turn in range(60):
    if turn == 30:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [library.malloc(1 << 20) for _ in range(48)]
    for block in blocks:
        ctypes.memset(block, 1, 1 << 20)
    for block in blocks:
        library.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str) -> int:
    """Pages that 30 rounds of 48 MB, allocated and freed, made the kernel provide."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), setting]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library isn't glibc")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    assert faults("kept") < 1_000
    assert faults("as it is") > 10_000
