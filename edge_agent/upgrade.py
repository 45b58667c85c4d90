"""Which release and which adapter are served: found again after a start, and exchanged between two requests."""

import logging
import threading

from edge_agent.ports import Facts, Release, Shelf
from edge_agent.serving import Served, Serving
from learning_core.errors import DewfallError, LinkDown, Malformed, Tampered
from learning_core.federation.lora_algebra import serving_inputs
from learning_core.params import Params

log = logging.getLogger(__name__)
SERVED = "served_release"


class Upgrade:
    """Saved as the fact of which version is served, written before it is."""

    def __init__(self, shelf: Shelf, serving: Serving, facts: Facts) -> None:
        self._shelf = shelf
        self._serving = serving
        self._facts = facts
        self._wanted: tuple[int, str] | None = None
        self._turn = threading.Lock()
        self.news = threading.Event()  # set while there may be something to install

    def restore(self) -> None:
        """Serve what was served before, verified again.

        One whose bytes were changed is set aside and named in a Tampered error; the next start goes on with the one
        before it, or fetches it anew.
        """
        version = self._facts.fact(SERVED)
        if version is None or version not in self._shelf.versions():
            version = next(iter(self._shelf.versions()), None) if version is not None else None
        if version is None:
            return
        try:
            release = self._shelf.load(version)
        except (Tampered, Malformed) as error:
            aside = self._shelf.set_aside(version)
            raise Tampered(
                f"release {version} was changed since it was verified ({error}); it was moved to {aside}, "
                "so start the agent again and it will fetch the release anew"
            ) from error
        self._serve(release, self._shelf.adapter(release))

    def announce(self, version: int, digest: str) -> str | None:
        """The fog has this release as its newest: what stands between it and being served here, if anything."""
        served = self._serving.served
        if version == 0 or (served is not None and served.release.version >= version):
            return None
        if (reason := self._shelf.ban_on(digest)) is not None:
            return f"release {version} is refused here: {reason}"
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
            self._facts.set_fact(SERVED, release.version)
            self._serve(release, self._shelf.adapter(release))
        self._shelf.prune(release.version)
        log.info("release %d is served", release.version)

    def adopt(self, release: Release, adapter: Params) -> None:
        """Serve a checked adapter, unless its release has been exchanged meanwhile."""
        with self._turn:
            self._shelf.keep_adapter(release, adapter)
            if self._serving.served is not None and self._serving.served.release is release:
                self._serve(release, adapter)

    def _serve(self, release: Release, adapter: Params | None) -> None:
        if adapter is None:
            self._serving.serve(Served(release, release.engine, adapted=False))
            return
        manifest = release.manifest
        inputs = serving_inputs(release.start, adapter, manifest.num_conditions, manifest.known_conditions)
        self._serving.serve(Served(release, release.engine.adapted(inputs), adapted=True))
