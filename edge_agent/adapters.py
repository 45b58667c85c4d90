"""What this device has learned on a release: which adapters are served, and both of them as one.

A personal adapter is a change on top of a shared one, and is served only with the very one it was proven on: its name
in the slots holds the digests of both.
"""

from dataclasses import dataclass

from edge_agent.ports import Release, Shelf, SlotStore
from edge_agent.slots import (
    ON,
    PERSONAL,
    SHARED,
    Slots,
    below,
    digest_in,
    fallen_back,
    has_failed,
    passed,
    proven,
    started,
    stopped,
    tried,
)
from learning_core.federation.lora_algebra import serving_inputs, together
from learning_core.params import Params, digest


@dataclass(frozen=True, slots=True)
class Worn:
    """Adapters by kind; None is none."""

    shared: Params | None = None
    personal: Params | None = None


def inputs_of(release: Release, worn: Worn) -> Params | None:
    """What the release's graphs are fed. Raises Malformed when an adapter is not of this release."""
    manifest = release.manifest
    parts = [
        serving_inputs(release.start, adapter, manifest.num_conditions, manifest.known_conditions)
        for adapter in (worn.shared, worn.personal)
        if adapter is not None
    ]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else together(*parts)


class Adapters:
    """Saved as files by digest, and slots: a file is there before slots name it, and goes after they do not."""

    def __init__(self, shelf: Shelf, store: SlotStore) -> None:
        self._shelf = shelf
        self._store = store

    def served_slots(self, release: Release) -> dict[str, Slots]:
        """Of both kinds; those of a personal adapter that does not go with the shared one of now count as empty."""
        slots = self._slots(release)
        return slots | {PERSONAL: proven(slots[PERSONAL], slots[SHARED])}

    def named(self, release: Release) -> tuple[str, str]:
        """What the slots say is served, shared and personal, whether or not the one goes with the other."""
        slots = self._slots(release)
        return slots[SHARED].served, slots[PERSONAL].served

    def restore(self, release: Release) -> None:
        """After a start: one more for what is on trial, which falls back when it has had too many."""
        for kind, slots in self._slots(release).items():
            left = started(slots)
            if has_failed(left):
                self.fall_back(release, kind, "the agent did not stay up while it was on trial")
            elif left != slots:
                self._store.store(kind, release.digest, left, {})
        self.settle(release)

    def stopped(self, release: Release) -> None:
        """Before the agent ends in order."""
        for kind, slots in self._slots(release).items():
            if (left := stopped(slots)) != slots:
                self._store.store(kind, release.digest, left, {})

    def settle(self, release: Release) -> None:
        """What is banned or cannot be read falls back to what there was."""
        for kind, slots in self._slots(release).items():
            left = slots
            while left.served and not self._is_there(release, kind, left.served):
                left = fallen_back(left)
            if left != slots:
                self._store.store(kind, release.digest, left, {})
            self._clear(release, kind, left)

    def worn(self, release: Release) -> Worn:
        """What is to be served."""
        slots = self._slots(release)
        shared, personal = slots[SHARED].served, slots[PERSONAL].served
        goes_with_it = bool(personal) and below(personal) == shared
        return Worn(
            self._shelf.adapter(release, SHARED, shared) if shared else None,
            self._shelf.adapter(release, PERSONAL, digest_in(personal)) if goes_with_it else None,
        )

    def personal(self, release: Release) -> Params | None:
        """The personal adapter, also while the shared one below is another than it was proven on."""
        name = digest_in(self._store.slots(PERSONAL, release.digest).served)
        return self._shelf.adapter(release, PERSONAL, name) if name else None

    def try_shared(self, release: Release, adapter: Params) -> str | None:
        """Put one on trial. Why not, when it is banned."""
        return self._try(release, SHARED, self._shelf.keep_adapter(release, SHARED, adapter), "")

    def try_personal(self, release: Release, adapter: Params, shared: str) -> str | None:
        """The same, on the shared one it was proven on, by its digest; "" is none. Why not, when it is another now."""
        if self._store.slots(SHARED, release.digest).served != shared:
            return "the shared adapter below it was exchanged meanwhile"
        return self._try(release, PERSONAL, self._shelf.keep_adapter(release, PERSONAL, adapter), f"{ON}{shared}")

    def refuse(self, adapter: Params, reason: str) -> None:
        """Ban one, whatever it may be learned on."""
        self._store.ban({digest(adapter): reason})

    def pass_trial(self, release: Release, kind: str) -> None:
        self._store.store(kind, release.digest, passed(self._store.slots(kind, release.digest)), {})

    def fall_back(self, release: Release, kind: str, reason: str | None) -> None:
        """Go back to what there was of a kind, and ban what is served, unless no reason for that is given."""
        slots = self._store.slots(kind, release.digest)
        left, gone = fallen_back(slots), digest_in(slots.served)
        self._store.store(kind, release.digest, left, {gone: reason} if gone and reason else {})
        self._clear(release, kind, left)

    def drop_personal(self) -> None:
        """Remove those of every release; the same may be learned again."""
        self._store.drop(PERSONAL)
        self._shelf.drop(PERSONAL)

    def _slots(self, release: Release) -> dict[str, Slots]:
        return {kind: self._store.slots(kind, release.digest) for kind in (SHARED, PERSONAL)}

    def _try(self, release: Release, kind: str, name: str, on: str) -> str | None:
        if (reason := self._store.ban_on(name)) is not None:
            return f"it is banned: {reason}"
        slots = tried(self._store.slots(kind, release.digest), name + on)
        self._store.store(kind, release.digest, slots, {})
        self._clear(release, kind, slots)
        return None

    def _is_there(self, release: Release, kind: str, name: str) -> bool:
        digest = digest_in(name)
        return self._store.ban_on(digest) is None and self._shelf.adapter(release, kind, digest) is not None

    def _clear(self, release: Release, kind: str, slots: Slots) -> None:
        self._shelf.keep_only(release, kind, {digest_in(name) for name in slots.kept})
