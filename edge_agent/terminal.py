"""What every `dewfall edge` command shares: where its settings are, and how it speaks."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigOption = Annotated[Path, typer.Option("--config", help="The device's settings, a TOML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TELL_EVERY_S = 15.0


def settings_of(config: Path) -> Any:
    from edge_agent.config import AgentSettings
    from protos.settings import load

    return load(AgentSettings, config, os.environ, "DEWFALL_EDGE")


def progress() -> Callable[[str], None]:
    """Shows where something long is, on standard error: in one line on a terminal, else now and then in a new one."""
    shown_s = -math.inf

    def tell(text: str) -> None:
        nonlocal shown_s
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()
        elif time.monotonic() - shown_s >= TELL_EVERY_S:
            shown_s = time.monotonic()
            sys.stderr.write(f"{text}\n")

    return tell


def say(what: Any) -> None:
    sys.stdout.write(what if isinstance(what, str) else json.dumps(what, indent=1))
    sys.stdout.write("\n")
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
