"""For which kind of device a program is traced: a few forms are there for CPUs alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_platform: ContextVar[str] = ContextVar("platform", default="")


def on_cpu() -> bool:
    """Whether what is traced now will run on a CPU."""
    return (_platform.get() or jax.default_backend()) == "cpu"


@contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Within it programs are traced for another platform than this machine's: "cpu", "cuda", ...

    What is compiled within must be a function of its own: JAX keeps what it has traced before.
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)
