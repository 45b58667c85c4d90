"""Devices as text, one file per device in `devices`, written by hand from documented layouts.

Each line is `path: content`; `path` lies below the device's root, and `\\n` in the content is a line break. A file
below a `bin` folder becomes a stand-in program that prints its content.
"""

from pathlib import Path

DEVICES = Path(__file__).parent / "devices"


def unpack(name, root):
    """Write the device's tree below `root`, which is returned."""
    for line in (DEVICES / f"{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        path, content = line.replace("\\n", "\n").split(": ", 1)
        if "/bin/" in path:
            make_program(root / path, f"cat <<'end'\n{content}\nend\n")
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content + "\n")
    return root


def make_program(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
