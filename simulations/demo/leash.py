"""`python -m simulations.demo.leash MODULE [ARGS]`: run a module that ends when whoever started it ends.

A demo that is killed outright cannot clean up after itself; on Linux the kernel does it (prctl(2), PR_SET_PDEATHSIG).
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if parent == 1 or os.getppid() != parent:  # it ended before the leash was on
        sys.exit(1)
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
