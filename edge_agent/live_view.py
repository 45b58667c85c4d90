"""The agent's status as a table to keep an eye on."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edge_agent.status import latency_in_words, of_one_version

COLOURS = {"train": "green", "offload": "cyan", "wait": "yellow", "serve_only": "red"}


@of_one_version
def view_of(tree: Mapping[str, Any]) -> RenderableType:
    """From the tree of the agent's status; what it does not know is a dash."""
    now, samples, device = tree["decisions"]["now"], tree["samples"], tree["device"]
    table = Table(title=Text(tree["name"]), show_header=False, title_justify="left")
    decision = Text(now["action"], style=COLOURS.get(now["action"], ""))
    table.add_row("decision", decision.append(f" ({now['reason']}): {now['sentence']}", style="default"))
    table.add_row("temperature", _reading(device, "soc_temp_c", _degrees))
    table.add_row("charge", _reading(device, "charge", _share) + _plugged(device))
    table.add_row("serves", _served(tree["release"]))
    table.add_row("latency", f"{latency_in_words(tree['inference'])} over {tree['inference']['count']} answers")
    table.add_row("samples", f"{samples['seen']} seen, {samples['kept']} kept, {samples['in_memory']} in memory")
    table.add_row("rounds", f"{tree['rounds']['updates']} updates sent")
    table.add_row("privacy", _privacy(tree["privacy"]))
    table.add_row("fog", Text(tree["fog"].get("trouble") or "connected"))
    return table


def _reading(device: Mapping[str, Any], name: str, words: Callable[[float], str]) -> str:
    """A figure with its quality where that is not the best."""
    reading = device.get(name)
    if reading is None or reading["age_s"] is None:
        return "-"
    doubt = "" if reading["quality"] == "ok" else f" ({reading['quality']}, {reading['age_s']:.0f} s old)"
    return f"{words(reading['value'])}{doubt}"


def _degrees(value: float) -> str:
    return f"{value:.1f} °C"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _plugged(device: Mapping[str, Any]) -> str:
    reading = device.get("plugged")
    if reading is None or reading["quality"] != "ok" or not reading["value"]:
        return ""
    return ", plugged in"


def _served(release: Mapping[str, Any] | None) -> str:
    if release is None:
        return "nothing yet"
    return f"release {release['version']}{' with its own adapter' * release['adapted']}"


def _privacy(privacy: Mapping[str, Any]) -> str:
    spent = "without limit" if privacy["epsilon"] is None else f"{privacy['epsilon']:.3g}"
    return f"epsilon {spent} of {privacy['max_epsilon']:g} over {privacy['rounds']} rounds"
