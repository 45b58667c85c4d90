"""What every `dewfall edge` command shares: where its settings are, and how it speaks."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigOption = Annotated[Path, typer.Option("--config", help="The device's settings, a TOML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def settings_of(config: Path) -> Any:
    from edge_agent.config import AgentSettings
    from protos.settings import load

    return load(AgentSettings, config, os.environ, "DEWFALL_EDGE")


def say(what: Any) -> None:
    sys.stdout.write(what if isinstance(what, str) else json.dumps(what, indent=1))
    sys.stdout.write("\n")
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
