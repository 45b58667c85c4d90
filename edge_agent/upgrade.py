"""Which release and which adapters are served: found again after a start, exchanged between two requests, and back."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edge_agent.adapters import Adapters, Worn, inputs_of
from edge_agent.ports import Release, Shelf, SlotStore
from edge_agent.serving import Serving, served_with
from edge_agent.slots import (
    PERSONAL,
    RELEASE,
    SHARED,
    OnTrial,
    Slots,
    encode_slots,
    fallen_back,
    going_back,
    has_failed,
    passed,
    started,
    stopped,
    tried,
)
from learning_core.errors import DewfallError, LinkDown, Malformed, Tampered
from learning_core.params import Params

log = logging.getLogger(__name__)


class Upgrade:
    """Saved as slots, stored before anything is served; every method may be called from any thread."""

    def __init__(
        self, shelf: Shelf, serving: Serving, store: SlotStore, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._shelf = shelf
        self._serving = serving
        self._store = store
        self._adapters = Adapters(shelf, store)
        self._clock = clock
        self._unchanged_s = 0.0
        self._since_s: dict[tuple[str, str], float] = {}  # of what is on trial, by kind and name
        self._wanted: tuple[int, str] | None = None
        self._turn = threading.RLock()
        self.news = threading.Event()  # set while there may be something to install

    def restore(self) -> None:
        """Serve what was served before, verified again.

        One whose bytes were changed is set aside and named in a Tampered error; the next start goes on with the one
        before it, or fetches it anew.
        """
        with self._turn:
            slots = started(self._store.slots(RELEASE))
            if has_failed(slots):
                slots = self._fall(slots, "the agent did not stay up while it was on trial")
            there = self._shelf.versions()
            if slots.served and int(slots.served) not in there:
                left = fallen_back(slots)
                slots = left if left.served and int(left.served) in there else Slots(newest=slots.newest)
                good = next((version for version in there if not self._is_banned(version)), None)
                slots = slots if slots.served or good is None else Slots(good=str(good), newest=slots.newest)
            if not slots.served:
                return
            self._store.store(RELEASE, "", slots, {})
            release = self._verified(int(slots.served))
            self._adapters.restore(release)
            self._serve(release)
            self._shelf.prune({int(each) for each in slots.kept})  # what a kill left behind

    def stopped(self) -> None:
        """Before the agent ends in order: what is on trial did not make it end."""
        with self._turn:
            if (served := self._serving.served) is not None:
                slots = self._store.slots(RELEASE)
                if (left := stopped(slots)) != slots:
                    self._store.store(RELEASE, "", left, {})
                self._adapters.stopped(served.release)

    def announce(self, version: int, digest: str) -> str | None:
        """The fog has this release as its newest: what stands between it and being served here, if anything."""
        served = self._serving.served
        if version == 0 or (served is not None and served.release.version >= version):
            return None
        if (reason := self._shelf.ban_on(digest)) is not None:
            return f"release {version} is refused here: {reason}"
        if version < (newest := self._store.slots(RELEASE).newest):
            return f"release {version} is refused here: release {newest} has been here, and versions only grow"
        self._wanted = (version, digest)
        self.news.set()
        return f"release {version} is being fetched"

    def step(self) -> None:
        """Install what was announced last. Raises LinkDown to be tried again; other refusals are final and logged."""
        wanted = self._wanted
        if wanted is None or self.announce(*wanted) is None:
            self.news.clear()
            return
        try:
            release = self._shelf.install(*wanted)
        except LinkDown:
            raise
        except DewfallError as error:
            meanwhile = "the old one goes on serving" if self._serving.served else "nothing is served"
            log.error("release %d is refused and %s: %s", wanted[0], meanwhile, error)
            self._wanted = None
            self.news.clear()
            return
        with self._turn:
            slots, name = self._store.slots(RELEASE), str(release.version)
            first = Slots(good=name, newest=release.version)  # with nothing to go back to
            slots = tried(slots, name, release.version) if slots.served else first
            with self._then_served(release):
                self._store.store(RELEASE, "", slots, {})
            self._shelf.prune({int(each) for each in slots.kept})
        log.info("release %d is served", release.version)

    def adopt(self, release: Release, adapter: Params) -> bool:
        """Serve a checked shared adapter on trial; not when its release has been exchanged meanwhile."""
        return self._adopt(release, lambda: self._adapters.try_shared(release, adapter))

    def adopt_personal(self, release: Release, adapter: Params, shared: str) -> bool:
        """The same for a personal one, on top of the shared one it was checked with: its digest, "" for none."""
        return self._adopt(release, lambda: self._adapters.try_personal(release, adapter, shared))

    def refuse(self, adapter: Params, reason: str) -> None:
        """Never serve this one."""
        self._adapters.refuse(adapter, reason)

    def worn(self, release: Release) -> tuple[Worn, Params | None]:
        """The adapters to be served, and the personal one even if it is not proven on the shared one of now."""
        with self._turn:
            return self._adapters.worn(release), self._adapters.personal(release)

    def named(self, release: Release) -> tuple[str, str]:
        """The names of both, as in the slots."""
        return self._adapters.named(release)

    def trials(self) -> tuple[OnTrial, ...]:
        """Whatever is on trial: a personal adapter first, then a shared one, then the release."""
        with self._turn:
            served, now_s = self._serving.served, self._unchanged_s
            slots = self._slots(served.release) if served else {}
            return tuple(
                OnTrial(kind, each.trial, self._since_s.get((kind, each.trial), now_s), now_s)
                for kind, each in reversed(slots.items())
                if each.trial
            )

    def pass_trial(self, trial: OnTrial) -> None:
        """It is good from now on, unless it is on trial no more."""
        with self._turn:
            served = self._serving.served
            if served is None or trial not in self.trials():
                return
            if trial.kind == RELEASE:
                self._store.store(RELEASE, "", passed(self._store.slots(RELEASE)), {})
            else:
                self._adapters.pass_trial(served.release, trial.kind)
            log.info("the %s on trial is good: %s", _words(trial.kind), trial.name[:16])

    def end_trial(self, trial: OnTrial, reason: str, *, ban: bool) -> None:
        """Go back from what is on trial, unless it is no more; without a ban an adapter may come again."""
        with self._turn:
            if trial in self.trials():
                self._go_back(trial.kind, reason, ban=ban)

    def roll_back(self, reason: str, kind: str | None = None, identity: str | None = None) -> str:
        """Go back from what changed last, or from the release, the shared or the personal adapter that is named.

        What is left behind is banned, with the reason. A sentence: what is served now. Raises DewfallError when there
        is nothing to go back to, or when what is served is not what somebody has looked at (see `Served.identity`).
        """
        with self._turn:
            served = self._serving.served
            if identity is not None and (served is None or served.identity != identity):
                raise DewfallError("what is served was exchanged meanwhile, so nothing is gone back from")
            self._go_back(kind, reason, ban=True)
            return self.sentence()

    def drop_personal(self) -> str:
        """Remove the personal adapters of every release. A sentence: what is served now."""
        with self._turn:
            served = self._serving.served
            with self._then_served(served.release if served else None):
                self._adapters.drop_personal()
            return self.sentence()

    def reverify(self) -> None:
        """Verify the served release's files again and load them anew. Raises Tampered; then nothing has changed."""
        with self._turn:
            if (served := self._serving.served) is not None:
                try:
                    release = self._shelf.load(served.release.version)
                except Malformed as error:
                    raise Tampered(str(error)) from error
                self._adapters.settle(release)
                self._serve(release)

    def sentence(self) -> str:
        """What is served now."""
        served = self._serving.served
        if served is None:
            return "nothing is served now"
        worn = self._adapters.worn(served.release)
        names = [kind for kind in (SHARED, PERSONAL) if getattr(worn, kind) is not None]
        with_them = f"with its {' and '.join(names)} adapter" if names else "without an adapter"
        return f"release {served.release.version} is served now, {with_them}"

    def standing(self) -> dict[str, Any]:
        """Slots of release and adapters, and what is banned: JSON for the status."""
        served = self._serving.served
        slots = self._slots(served.release) if served else {RELEASE: self._store.slots(RELEASE)}
        return {**{kind: encode_slots(each) for kind, each in slots.items()}, "bans": self._store.bans()}

    def lift(self, digest: str) -> bool:
        """A person allows again what is banned; whether it was."""
        return self._store.lift(digest)

    def _slots(self, release: Release) -> dict[str, Slots]:
        return {RELEASE: self._store.slots(RELEASE), **self._adapters.served_slots(release)}

    def _adopt(self, release: Release, try_it: Callable[[], str | None]) -> bool:
        """Whether it is served; loaded anew, a release is the same."""
        with self._turn:
            served = self._serving.served
            if served is None or served.release.digest != release.digest:
                return False
            with self._then_served(served.release):
                reason = try_it()
            if reason is not None:
                log.info("an adapter that was learned is not served: %s", reason)
            return reason is None

    def _go_back(self, kind: str | None, reason: str, *, ban: bool) -> None:
        served = self._serving.served
        if served is None:
            raise DewfallError("nothing is served, so there is nothing to go back from")
        slots, release = self._slots(served.release), served.release
        falling, left = going_back(slots, kind)
        if falling == RELEASE:
            target = int(left.served)
            if target not in self._shelf.versions():
                raise DewfallError(f"release {target} is not on this device any more, so there is no way back to it")
            release = self._verified(target)
        with self._then_served(release):
            if falling == RELEASE:
                self._fall(slots[RELEASE], reason)
            else:
                self._adapters.fall_back(release, falling, reason if ban else None)
        log.warning("back from the %s that was served: %s", _words(falling), reason)

    @contextmanager
    def _then_served(self, release: Release | None) -> Iterator[None]:
        """Serve what the slots say after a change of them, also one that was stored and could not be said to be."""
        try:
            yield
        finally:
            if release is not None and self._store.slots(RELEASE).served == str(release.version):
                self._serve(release)

    def _serve(self, release: Release) -> None:
        """With its adapters, unless just that is served: then what healing has put beside it stays."""
        before, served = self._serving.served, served_with(release, inputs_of(release, self._adapters.worn(release)))
        if before is None or before.release is not release or before.identity != served.identity:
            self._serving.serve(served)
            self._unchanged_s = self._clock()
        trials = [(kind, each.trial) for kind, each in self._slots(release).items() if each.trial]
        self._since_s = {each: self._since_s.get(each, self._clock()) for each in trials}

    def _fall(self, slots: Slots, reason: str) -> Slots:
        digest, left = self._shelf.digest_of(int(slots.served)), fallen_back(slots)
        self._store.store(RELEASE, "", left, {digest: reason} if digest else {})
        return left

    def _is_banned(self, version: int) -> bool:
        digest = self._shelf.digest_of(version)
        return digest is None or self._shelf.ban_on(digest) is not None

    def _verified(self, version: int) -> Release:
        """A release from the disk; one that was changed is moved aside. Raises Tampered."""
        try:
            return self._shelf.load(version)
        except (Tampered, Malformed) as error:
            aside = self._shelf.set_aside(version)
            raise Tampered(
                f"release {version} was changed since it was verified ({error}); it was moved to {aside}, "
                "so start the agent again and it will fetch the release anew"
            ) from error


def _words(kind: str) -> str:
    return kind if kind == RELEASE else f"{kind} adapter"
