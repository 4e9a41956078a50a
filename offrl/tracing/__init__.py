"""Updates that are recorded once and replayed as straight-line code, outside of autograd."""

from offrl.tracing.traced import Traced, repeated

__all__ = ["Traced", "repeated"]
