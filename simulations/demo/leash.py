"""`python -m simulations.demo.leash PID MODULE [ARGS]`: run a module that ends when PID, which started it, ends.

A demo that is killed outright cannot clean up after itself; on Linux the kernel does it (prctl(2), PR_SET_PDEATHSIG).
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def leashed(*arguments: str) -> list[str]:
    """The command line for `python -m ARGUMENTS` on a leash that this process holds."""
    return [sys.executable, "-m", "simulations.demo.leash", str(os.getpid()), *arguments]


def main() -> None:
    holder, module = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != holder:  # it ended before the leash was on
        sys.exit(1)
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
