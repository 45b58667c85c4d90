"""How much memory this process holds."""

import resource
import sys
from pathlib import Path

_MIB = 1 << 20


def rss_mb() -> float:
    """Resident set in MiB; where the system only tells the peak, that."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / _MIB
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / _MIB if sys.platform == "darwin" else peak / 1024
