"""What is sent for a job and what came of it, on disk: whenever the same job comes again, it is the same bytes."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from edge_agent.config import AgentSettings
from edge_agent.drivers.noised_samples import NoisedSamples
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.ports import Job
from learning_core.errors import Malformed
from learning_core.federation.local_noise import noise_deviation
from protos import offload_pb2 as pb
from protos.codec import encode_params
from protos.learner_records import (
    CHECKPOINT,
    SAMPLES,
    SHARED,
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    encode_samples,
)
from protos.offload_jobs import JobHeader, Kind, blob_of, named
from protos.offload_messages import decode_job, encode_job
from protos.state_folder import write_atomically

HEADER = "job.pb"


@dataclass(frozen=True, slots=True)
class Packed:
    """A job that is ready to be sent, or done."""

    folder: Path
    header: JobHeader

    def contents(self) -> tuple[bytes, bytes]:
        """Samples and start, as the header announces them."""
        return (self.folder / SAMPLES).read_bytes(), (self.folder / SHARED).read_bytes()

    def result(self) -> Checkpoint | None:
        """What came of it, None when nothing has yet."""
        path = self.folder / CHECKPOINT
        return decode_checkpoint(path.read_bytes()) if path.exists() else None

    def keep(self, result: Checkpoint) -> Checkpoint:
        write_atomically(self.folder / CHECKPOINT, encode_checkpoint(result))
        return result


class OffloadFolder:
    """One job at a time; a new one takes the place of the old. Saved as the files themselves."""

    def __init__(self, folder: Path, settings: AgentSettings, noised: NoisedSamples, journal: SqliteJournal) -> None:
        self._folder = folder
        self._settings = settings.offload
        self._learning = settings.learning
        self._noised = noised
        self._journal = journal

    def find(self, job: Job) -> Packed | None:
        """The same job as it was packed before."""
        return _packed(self._place(job))

    def pack(self, job: Job, kind: Kind) -> Packed | None:
        """Write down what is to be sent, charged first where it is noised; None when nothing may be sent.

        Raises StateError.
        """
        samples, deviation = job.samples, 0.0
        if kind is Kind.LATENTS:
            samples = self._noised.of(job.samples, job.release.manifest.num_conditions, job.ahead)
            deviation = noise_deviation(self._settings.clip_norm, self._settings.noise_multiplier)
        if len(samples) == 0:
            return None
        encoded, start, chosen = encode_samples(samples), encode_params(job.shared), self._learning
        header = JobHeader(
            job=b"",
            release=job.release.version,
            manifest_sha256=job.release.digest,
            kind=kind,
            noise_deviation=deviation,
            steps=chosen.steps,
            batch=chosen.batch,
            learning_rate=chosen.learning_rate,
            seed=int.from_bytes(hashlib.sha256(f"{chosen.seed}/{job.name}".encode()).digest()[:4], "big"),
            samples=blob_of(encoded),
            start=blob_of(start),
        )
        for old in self._folder.glob("*/"):
            shutil.rmtree(old)
        place = self._place(job)
        place.mkdir(parents=True)
        write_atomically(place / SAMPLES, encoded)
        write_atomically(place / SHARED, start)
        write_atomically(place / HEADER, encode_job(named(header)).SerializeToString())  # last: now it is whole
        if kind is Kind.RAW:
            self._journal.tally("offloaded_raw")
        return _packed(place)

    def give_up(self, job: Job) -> None:
        """Nobody waits for what comes of it any more; packed again, it would be the same bytes."""
        shutil.rmtree(self._place(job), ignore_errors=True)

    def unfinished(self) -> set[bytes]:
        """The names of jobs that go on when they come again."""
        found = (_packed(place) for place in self._folder.glob("*/"))
        return {each.header.job for each in found if each is not None and each.result() is None}

    def _place(self, job: Job) -> Path:
        what = repr((job.name, job.release.digest, str(job.base_version), self._settings, self._learning))
        return self._folder / hashlib.sha256(what.encode()).hexdigest()[:16]


def _packed(place: Path) -> Packed | None:
    try:
        return Packed(place, decode_job(pb.JobPiece.FromString((place / HEADER).read_bytes())))
    except (FileNotFoundError, DecodeError, Malformed):
        return None
