"""A fog's status and ledger as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table


def status_view(record: Mapping[str, Any]) -> Group:
    words = "runs" if record["running"] else "is not running (this is its last status)"
    head = (
        f"[bold]{record['fog']}[/bold] {words}: {record['doing']}\n"
        f"release {record['release'] or 'none yet'}, shared version {record['shared_version'] or 'none yet'}, "
        f"cloud {record['cloud']}, {record['outbox']} aggregates waiting, {record['rss_mb']} MB resident"
    )
    devices = Table("device", "node id", "online", title="Devices", box=SIMPLE)
    for name, device in record["devices"].items():
        devices.add_row(name, device["node_id"], "yes" if device["online"] else "no")
    heads = ("round", "base", "chosen", "accepted", "declined", "refused", "silent", "seconds", "epsilon", "settled")
    rounds = Table(*heads, title="Last rounds", box=SIMPLE, padding=0)
    for each in record["rounds"][-10:]:
        if each["state"] == "abandoned":
            rounds.add_row(str(each["round"]), each["base_version"], "abandoned")
            continue
        rounds.add_row(
            str(each["round"]),
            each["base_version"],
            str(each["cohort_size"]),
            str(each["num_accepted"]),
            *(str(len(each[group])) for group in ("declined", "refused", "silent")),
            f"{each['seconds']:.2f}",
            _epsilon(each["epsilon"]),
            each["settled"] or "not yet",
        )
    return Group(head, devices, rounds)


def ledger_view(record: Mapping[str, Any]) -> Group:
    table = Table("device", "rounds charged", "epsilon", title="Privacy ledger", box=SIMPLE)
    for name, device in record["devices"].items():
        table.add_row(name, str(device["rounds"]), _epsilon(device["epsilon"]))
    terms = (
        f"The most charged device stands at epsilon {_epsilon(record['epsilon'])} of {_epsilon(record['max_epsilon'])}"
        f" (delta {record['target_delta']:g}; {record['unit']}).\n"
        f"Next round: clip norm {record['clip_norm']:g}, noise multiplier {record['noise_multiplier']:g},"
        f" sample rate {record['sample_rate']:g}."
    )
    return Group(table, terms)


def _epsilon(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"
