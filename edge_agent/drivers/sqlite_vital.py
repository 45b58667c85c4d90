"""What of the database its second copy is told, and how it comes back from there."""

import json
import sqlite3

from edge_agent.drivers.second_copy import Vital

PAUSED = "paused"
ERASING = "erasing"  # the fact that samples were forgotten and their bytes may still be in the file
FAR_JOBS = "offloaded_jobs"  # of which a fog may still have samples
VITAL_FACTS = ("served_release", PAUSED, "enrolment", ERASING, FAR_JOBS)
SLOTS = "slots."  # with which the names of the other facts begin that are vital: which adapters are served
VITAL = f"name IN {VITAL_FACTS} OR substr(name, 1, {len(SLOTS)}) = '{SLOTS}'"

# Whoever writes these tables, and however: the second copy is told. Of this connection alone, nothing in the file.
TELLING = f"""
CREATE TEMP TRIGGER answered AFTER INSERT ON answers BEGIN SELECT vital('answer', NEW.fog, NEW.round); END;
CREATE TEMP TRIGGER spent AFTER INSERT ON spendings
    BEGIN SELECT vital('spending', NEW.noise_multiplier, NEW.sample_rate, NEW.rounds); END;
CREATE TEMP TRIGGER spent_more AFTER UPDATE ON spendings
    BEGIN SELECT vital('spending', NEW.noise_multiplier, NEW.sample_rate, NEW.rounds); END;
CREATE TEMP TRIGGER banned AFTER INSERT ON bans BEGIN SELECT vital('ban', NEW.digest, NEW.reason, NEW.until_s); END;
CREATE TEMP TRIGGER told AFTER INSERT ON facts WHEN {VITAL.replace("name", "NEW.name")}
    BEGIN SELECT vital('fact', NEW.name, NEW.value); END;
CREATE TEMP TRIGGER taken_back AFTER DELETE ON facts WHEN {VITAL.replace("name", "OLD.name")}
    BEGIN SELECT vital('fact', OLD.name, 'null'); END;
"""


def vital_of(db: sqlite3.Connection) -> Vital:
    """What a database has of what is kept twice."""
    facts = db.execute(f"SELECT name, value FROM facts WHERE {VITAL}").fetchall()  # noqa: S608
    seq = db.execute("SELECT value FROM facts WHERE name = 'vital_seq'").fetchone()
    return Vital(
        json.loads(seq[0]) if seq else 0,
        frozenset(db.execute("SELECT fog, round FROM answers")),
        {(noise, rate): rounds for noise, rate, rounds in db.execute("SELECT * FROM spendings")},
        {digest: (reason, until_s) for digest, reason, until_s in db.execute("SELECT * FROM bans")},
        {name: json.loads(value) for name, value in facts},
    )


def restore(db: sqlite3.Connection, vital: Vital) -> None:
    """Make a database know all this; of an answer that was lost it knows only that there was one."""
    answers = [(fog, round_, "", 0, 0.0, "{}", None) for fog, round_ in vital.answers]
    db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", answers)
    db.executemany(
        "INSERT OR REPLACE INTO spendings VALUES (?, ?, ?)", [(*key, value) for key, value in vital.spendings.items()]
    )
    db.executemany("INSERT OR REPLACE INTO bans VALUES (?, ?, ?)", [(key, *why) for key, why in vital.bans.items()])
    db.execute(f"DELETE FROM facts WHERE {VITAL}")  # noqa: S608
    for name, value in {**vital.facts, "vital_seq": vital.seq}.items():
        db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))
