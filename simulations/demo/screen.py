"""What a person sees while the demo runs."""

import time
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from simulations.demo.observe import Snapshot, Status, served
from simulations.demo.twin import Twin


class Screen:
    """The live view; `phase` names what goes on now. Where nothing can be redrawn, `tell` prints what is new."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.began = time.monotonic()
        self.snapshot = Snapshot()
        self.twins: list[Twin] = []
        self.detail = ""
        self.events: list[str] = []
        self.seconds: dict[str, float] = {}
        self._phase, self._phase_began = "", self.began

    def phase(self, name: str) -> None:
        """The running phase ends and this one begins."""
        now = time.monotonic()
        if self._phase:
            self.seconds[self._phase] = now - self._phase_began
        self._phase, self._phase_began, self.detail = name, now, ""
        self._tell(f"{now - self.began:5.0f} s  {name}")

    def event(self, text: str) -> None:
        self.events.append(f"{time.monotonic() - self.began:5.0f} s  {text}")
        self._tell(self.events[-1])

    def __rich__(self) -> RenderableType:
        elapsed = time.monotonic() - self.began
        title = Text.assemble((f" {self._phase} ", "bold reverse"), f"  {self.detail}  {elapsed:.0f} s")
        parts: list[RenderableType] = [title]
        if self.snapshot.fogs:
            parts.append(self._tiers())
        if self.twins:
            parts.append(self._devices())
        parts.append(Panel(Text("\n".join(self.events[-6:]) or "..."), title="events", title_align="left"))
        return Group(*parts)

    def _tiers(self) -> Table:
        table = Table("tier", "now", expand=True)
        cloud = self.snapshot.cloud
        shared = cloud.get("shared", {}).get("version")
        doing = f"distilling from {cloud['distilling']}" if cloud.get("distilling") else "gathering"
        table.add_row("cloud", f"release {self.snapshot.accepted}, shared adapter {shared}, {doing}" if cloud else "-")
        for fog, status in self.snapshot.fogs.items():
            rounds = status.get("rounds", [])
            last = rounds[-1] if rounds else None
            text = f"{len(rounds)} rounds" + (f"; last: {_round(last)}" if last else "")
            table.add_row(fog, text if status else "-")
        return table

    def _devices(self) -> Table:
        table = Table("device", "SoC", "charge", "decides", "because", "seen", "kept", "release", expand=True)
        for twin in self.twins:
            status = self.snapshot.devices.get(twin.name, {})
            decision = status.get("decisions", {}).get("now", {})
            action = decision.get("action", "-")
            colour = {"train": "green", "wait": "yellow"}.get(action, "white")
            samples = status.get("samples", {})
            table.add_row(
                twin.name,
                f"{twin.state.die_c:.0f} °C",
                "mains"
                if twin.board.battery_j is None
                else f"{twin.state.charge:.0%}{' +' if twin.state.plugged else ''}",
                f"[{colour}]{action}[/]",
                str(decision.get("reason", "-")),
                str(samples.get("seen", "-")),
                str(samples.get("kept", "-")),
                str(served(status) or "-"),
            )
        return table


def _round(last: Status) -> str:
    return f"number {last['round']}, {len(last.get('accepted', []))} accepted, {len(last.get('declined', []))} declined"
