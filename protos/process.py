"""How a tier's process begins: nobody calls home, libraries keep to one thread, and what is freed is used again."""

import contextlib
import ctypes
import os

# Read when the libraries are loaded, so it comes before them.
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
_M_ARENA_MAX = -8


def begin() -> None:
    """Set what is not set yet, and two malloc arenas instead of eight a core (glibc's mallopt(3))."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
