"""What every scenario and benchmark leaves behind: claims with computed verdicts, as JSON and as a page of its own."""

import base64
import html
import io
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
from rich.console import Console
from rich.table import Table

from protos.state_folder import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("dewfall", "flwr", "torch", "onnxruntime", "numpy", "grpcio", "protobuf")


@dataclass(frozen=True, slots=True)
class Claim:
    """One figure beside its target. `low` and `high` bound the value where its uncertainty was measured."""

    id: str
    statement: str
    value: float
    unit: str
    direction: Literal["at_most", "at_least"]
    target: float
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> Literal["holds", "falls", "inconclusive"]:
        """Holds or falls when the whole interval does, inconclusive when it straddles the target."""
        ends = (self.value if self.low is None else self.low, self.value if self.high is None else self.high)
        met = {end <= self.target if self.direction == "at_most" else end >= self.target for end in ends}
        if len(met) > 1:
            return "inconclusive"
        return "holds" if met.pop() else "falls"


def machine() -> dict[str, Any]:
    memory = psutil.virtual_memory().total / 2**30
    return {"cores": os.cpu_count(), "memory_gib": round(memory, 1), "load": os.getloadavg()[0]}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def document(
    claims: Sequence[Claim], figures: Mapping[str, Any], peers: Mapping[str, Any], seeds: Sequence[int]
) -> dict[str, Any]:
    """The content of a report.json."""
    return {
        "claims": [asdict(claim) | {"verdict": claim.verdict} for claim in claims],
        "figures": dict(figures),
        "peers": dict(peers),
        "command": " ".join(["dewfall", *sys.argv[1:]]),
        "seeds": list(seeds),
        "versions": versions(),
        "machine": machine(),
    }


def write(out: Path, content: Mapping[str, Any], page: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "report.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    write_atomically(out / "report.html", page.encode())


def show(claims: Sequence[Claim], out: Path, content: Mapping[str, Any], *, as_json: bool) -> None:
    """On standard output: the whole report as JSON, or its claims as a table and where the rest is."""
    if as_json:
        sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
        return
    shown = Table("verdict", "claim", "measured", "target", title="claims")
    words = {"at_most": "<=", "at_least": ">="}
    for claim in claims:
        colour = {"holds": "green", "falls": "red", "inconclusive": "yellow"}[claim.verdict]
        target = f"{words[claim.direction]} {claim.target:g}"
        shown.add_row(f"[{colour}]{claim.verdict}[/]", claim.statement, f"{claim.value:.4g} {claim.unit}", target)
    console = Console()
    console.print(shown)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; cells are escaped, numbers are set to the right."""

    def cell(value: object) -> str:
        kind = ' class="number"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        return f"<td{kind}>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(cell(value) for value in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def claims_table(claims: Sequence[Claim]) -> str:
    words = {"at_most": "at most", "at_least": "at least"}
    rows = [
        (
            claim.verdict,
            claim.statement,
            claim.value,
            f"{words[claim.direction]} {claim.target:g}",
            claim.unit,
            claim.id,
        )
        for claim in claims
    ]
    return table(("verdict", "claim", "measured", "target", "unit", "id"), rows)


def picture(figure: "Figure", alternative: str) -> str:
    """A matplotlib figure as an image inside the page; `alternative` says in words what it shows."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alternative, quote=True)}" src="data:image/png;base64,{data}">'


def page(title: str, lead: str, sections: Mapping[str, str]) -> str:
    """A page that needs nothing from anywhere else. `lead` and the sections' bodies are HTML."""
    body = "".join(f"<section><h2>{html.escape(name)}</h2>{content}</section>" for name, content in sections.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<main><h1>{html.escape(title)}</h1>{lead}{body}</main></html>\n"
    )


_STYLE = """
:root{--ink:#17252a;--soft:#5b6f76;--line:#d9e2e3;--paper:#fbfcfc;--good:#12715b;--bad:#a5322a;--accent:#2a7f9e}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:1060px;margin:0 auto;padding:2.5rem 1.2rem 4rem}h1{font-size:2rem;line-height:1.2;margin:0 0 .6rem}
h2{font-size:1.25rem;margin:2.6rem 0 .6rem;padding-top:1rem;border-top:1px solid var(--line)}
p{max-width:46rem}small,.soft{color:var(--soft)}img{max-width:100%;height:auto;display:block;margin:.8rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;margin:.6rem 0}
th,td{padding:.35rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}.number{text-align:right;font-variant-numeric:tabular-nums}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.8rem;margin:1.4rem 0}
.tile{background:#fff;border:1px solid var(--line);border-radius:10px;padding:.8rem 1rem}
.tile b{display:block;font-size:1.5rem;line-height:1.25}.tile.good b{color:var(--good)}.tile.bad b{color:var(--bad)}
.note{background:#fff6e5;border-left:4px solid #d9a13b;padding:.7rem 1rem;max-width:46rem}
code{background:#edf2f3;padding:.1rem .3rem;border-radius:4px;font-size:.9em}
"""
