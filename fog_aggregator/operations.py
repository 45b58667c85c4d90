"""What a person does with a fog besides running it; light to import, and safe while the fog runs."""

from pathlib import Path
from typing import Any

from fog_aggregator import status
from fog_aggregator.config import FogSettings
from fog_aggregator.drivers import identity
from fog_aggregator.drivers.journal_file import NAME, JournalFile
from fog_aggregator.drivers.sqlite_enrolment import SqliteEnrolment
from fog_aggregator.drivers.sqlite_journal import SqliteJournal
from fog_aggregator.plans import Budget, Terms
from learning_core.errors import ConfigError, StateError


def ledger(state: Path, terms: Terms, budget: Budget) -> dict[str, Any]:
    """The ledger as it is on disk, also while the fog runs."""
    if not (state / NAME).is_file():
        raise StateError(f"there is no ledger in {state}; start the fog once, or name its state folder")
    file = JournalFile(state)
    try:
        owner = (file.fact("fog") or b"?").decode()
        histories = SqliteJournal(file, owner).histories() if file.fact("fog") else {}
        return status.ledger_record(SqliteEnrolment(file).devices(), histories, terms, budget)
    finally:
        file.close()


def make_token(state: Path) -> str:
    """A one-time token for a device; works while the fog runs."""
    file = JournalFile(state)
    try:
        return SqliteEnrolment(file).make_token()
    finally:
        file.close()


def check(settings: FogSettings) -> None:
    """What can be known of the settings without starting. Raises ConfigError."""
    identity.authority(settings.cloud)
    identity.read_token(settings.cloud)
    for path in (settings.listen.certificate, settings.listen.private_key):
        if path is not None and not path.is_file():
            raise ConfigError(f"there is no file {path}; name the fog's certificate and key, or neither")
