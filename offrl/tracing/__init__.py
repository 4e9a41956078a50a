"""Stand-in."""
from typing import Any, Callable, TypeVar
F = TypeVar("F", bound=Callable[..., Any])
def repeated(f: F) -> F:
    return f
