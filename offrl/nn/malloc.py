"""The C library's allocator, told to keep what tensors free."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = 64 << 20
STEP = 64 << 20
LARGEST = 32 << 20
"""Bytes: the most that glibc takes for the threshold beyond which a block is mapped by itself."""


def keep_freed_memory() -> bool:
    """Have glibc keep up to `KEPT` bytes at the end of its heap; whether it will. Other C libraries are left alone.

    By default it hands memory back to the kernel as soon as 128 KiB are free at the end. Where a network's activations
    happen to lie there, each update faults all their pages in again, which was seen to take as long as half of its
    arithmetic.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {M_MMAP_THRESHOLD: LARGEST, M_TRIM_THRESHOLD: KEPT, M_TOP_PAD: STEP}
    return all(library.mallopt(name, value) for name, value in settings.items())
