"""Devices and the one-time tokens they enrol with, in the fog's SQLite file; of a token only its sha256 is kept."""

import hashlib
import json
import secrets
from enum import StrEnum

from fog_aggregator.drivers.journal_file import JournalFile
from fog_aggregator.plans import Device


class TokenUse(StrEnum):
    """What a token is good for, for the holder of one key."""

    BOUND = "bound"  # to this key, now or before
    TAKEN = "taken"  # by another key
    UNKNOWN = "unknown"


class SqliteEnrolment:
    """Who may join and who has; every method is one transaction and safe to repeat."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def make_token(self) -> str:
        """A new one-time token; this is the only time anyone can see it."""
        token = secrets.token_urlsafe(24)
        with self._file.write("token") as database:
            database.execute("INSERT INTO tokens (digest) VALUES (?)", (_digest(token),))
        return token

    def bind(self, token: str, public_key: bytes) -> TokenUse:
        """Give the token to the holder of `public_key`, unless it is another's already."""
        with self._file.write("bind") as database:
            row = database.execute("SELECT public_key FROM tokens WHERE digest = ?", (_digest(token),)).fetchone()
            if row is None:
                return TokenUse.UNKNOWN
            if row[0] is None:
                database.execute("UPDATE tokens SET public_key = ? WHERE digest = ?", (public_key, _digest(token)))
            return TokenUse.BOUND if row[0] in {None, public_key} else TokenUse.TAKEN

    def admit(self, device: Device) -> None:
        """Enrol a device. One that comes back under a new node id keeps its charges, and an open round is given up:
        it knows the device only under the old one and would not charge it.
        """
        with self._file.write("admit") as database:
            database.execute(
                "UPDATE rounds SET state = 'abandoned', shared = NULL, outcome = ? WHERE state = 'open' AND EXISTS"
                " (SELECT 1 FROM devices WHERE public_key = ? AND node_id != ?)",
                (
                    json.dumps({"abandoned": "a device came back under a new node id"}),
                    device.public_key,
                    str(device.node_id),
                ),
            )
            database.execute(
                "INSERT INTO devices VALUES (?, ?, ?)"
                " ON CONFLICT (public_key) DO UPDATE SET node_id = excluded.node_id, name = excluded.name",
                (str(device.node_id), device.name, device.public_key),
            )

    def devices(self) -> list[Device]:
        with self._file.read() as database:
            rows = database.execute("SELECT node_id, name, public_key FROM devices ORDER BY name, node_id").fetchall()
        return [Device(int(node), name, bytes(key)) for node, name, key in rows]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
