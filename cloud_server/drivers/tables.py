"""What people see of releases and of the running cloud."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from cloud_server.evaluation import mean_fidelity
from cloud_server.ports import ReleaseRow


def releases_table(rows: Sequence[ReleaseRow]) -> Table:
    table = Table("release", "made from", "published", "known", "fidelity known / other", "KID known", "why")
    for row in rows:
        quality, known = row.evaluation.quality, row.evaluation.known
        other = quality.fidelity.keys() - set(known)
        table.add_row(
            str(row.version),
            str(row.made_from) if row.made_from.release else "data",
            "yes" if row.evaluation.publish else "no",
            " ".join(map(str, known)),
            f"{mean_fidelity(quality, known):.3f} / " + (f"{mean_fidelity(quality, other):.3f}" if other else "-"),
            f"{quality.kid_old:.3f}",
            "; ".join(row.evaluation.reasons),
        )
    return table


def status_table(tree: dict[str, Any]) -> Table:
    host, port = tree["listening_on"]
    table = Table("what", "how it is")
    table.add_row("listening on", f"{host} port {port}")
    table.add_row("releases", ", ".join(str(each["version"]) for each in tree["releases"] if each["accepted"]))
    table.add_row("shared version", str(tree["shared"]["version"]))
    table.add_row("distilling", str(tree["distilling"] or "nothing"))
    for fog, about in tree["fogs"].items():
        counts = about["aggregates"]
        table.add_row(fog, ", ".join(f"{number} {state}" for state, number in counts.items()))
    table.add_row("memory", f"{tree['rss_mb']} MiB")
    return table
