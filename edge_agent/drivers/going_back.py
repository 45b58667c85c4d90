"""Going back on the state of an agent that does not run, and forgetting what is personal: slots and names alone."""

import hashlib
from contextlib import closing
from pathlib import Path

from edge_agent.drivers.sqlite_slots import SqliteSlots
from edge_agent.drivers.sqlite_store import Database
from edge_agent.slots import BY_A_PERSON, PERSONAL, RELEASE, SHARED, digest_in, going_back, proven
from learning_core.errors import ConfigError, DewfallError
from protos.release import MANIFEST
from protos.state_folder import StateFolder


def roll_back_without_agent(kind: str | None, state: Path) -> str:
    """What the next start of the agent will serve, as a sentence. Raises DewfallError."""
    if not (state / "agent.db").is_file():
        raise ConfigError(f"there is no agent's state in {state}; name the folder that holds agent.db")
    with StateFolder.open(state), closing(Database(state / "agent.db")) as database:
        store = SqliteSlots(database)
        release = store.slots(RELEASE)
        if not release.served:
            raise DewfallError("no release was ever served here, so there is nothing to go back from")
        digest = _digest(state, release.served)
        if kind == PERSONAL:
            forget_personal(state, database)
            return "the personal adapter is gone, of every release"
        shared = store.slots(SHARED, digest)
        slots = {RELEASE: release, SHARED: shared, PERSONAL: proven(store.slots(PERSONAL, digest), shared)}
        falling, left = going_back(slots, kind)
        if falling == RELEASE:
            _digest(state, left.served)
            store.store(RELEASE, "", left, {digest: BY_A_PERSON})
            return f"release {left.served} will be served"
        store.store(falling, digest, left, {digest_in(slots[falling].served): BY_A_PERSON})
        with_it = f"an earlier {falling} adapter" if left.served else f"no {falling} adapter"
        return f"release {release.served} will be served with {with_it}"


def forget_personal(state: Path, database: Database) -> None:
    """Remove every personal adapter: files first, so that nothing comes back from them. Raises OSError, StateError."""
    for path in (state / "releases").glob(f"*.{PERSONAL}"):
        path.unlink(missing_ok=True)
    SqliteSlots(database).drop(PERSONAL)


def _digest(state: Path, version: str) -> str:
    """Of the manifest of a release on the disk. Raises DewfallError."""
    try:
        return hashlib.sha256((state / "releases" / version / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise DewfallError(f"release {version} is not on this device any more ({error.strerror})") from error
