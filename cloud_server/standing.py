"""How the cloud stands, as one JSON tree: what `status.json` and the reports are made of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cloud_server.ports import AggregateRow, Registry, ReleaseRow

Traffic = Mapping[str, tuple[int, int]]  # bytes of messages (from, to) each fog


def standing(registry: Registry, traffic: Traffic, phases_s: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Everything but what only the process knows of itself. `phases_s`: seconds of each step of each long work."""
    rows, distilling, shared = registry.aggregates(), registry.distilling(), registry.shared_version()
    fogs = registry.fogs()
    return {
        "releases": [release_tree(row) for row in registry.releases()],
        "shared": {
            "version": str(shared) if shared else None,
            "steps": [
                {
                    "version": str(version),
                    "made_at_s": made_at_s,
                    "aggregates": [[row.fog, row.round] for row in rows if row.counted_in == version],
                }
                for version, made_at_s in registry.shared_versions()
            ],
        },
        "fogs": {fog: _fog_tree([row for row in rows if row.fog == fog]) for fog in fogs},
        "distilling": str(distilling) if distilling else None,
        "bytes": {fog: dict(zip(("up", "down"), traffic.get(fog, (0, 0)), strict=True)) for fog in fogs},
        "seconds": {work: dict(taken) for work, taken in phases_s.items()},
    }


def release_tree(row: ReleaseRow) -> dict[str, Any]:
    evaluation = row.evaluation
    return {
        "version": row.version,
        "made_from": str(row.made_from),
        "accepted": evaluation.publish,
        "reasons": list(evaluation.reasons),
        "known_conditions": list(evaluation.known),
        "manifest_sha256": row.manifest_sha256,
        "examined_at_s": row.examined_at_s,
        **evaluation.quality.model_dump(mode="json"),
    }


def _fog_tree(rows: Sequence[AggregateRow]) -> dict[str, Any]:
    states = Counter(row.state for row in rows)
    return {
        "aggregates": {state: states[state] for state in ("counted", "buffered", "refused")},
        "refusals": [{"round": row.round, "reason": row.reason} for row in rows if row.state == "refused"],
        "last_round": max((row.round for row in rows), default=None),
    }
