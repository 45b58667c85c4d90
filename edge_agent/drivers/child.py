"""How a child of ours is ended: at once, waited for, and with nothing of it left open."""

import contextlib
import subprocess


def end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    if child.stdin is not None:
        with contextlib.suppress(OSError):  # what was still to be written is nobody's any more
            child.stdin.close()
