"""What a person may set on a device. Temperatures in degrees Celsius, charge and shares 0..1, times in seconds."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from edge_agent.healing.playbook import Remedy
from edge_agent.hours import Window
from edge_agent.normalise.pictures import Span
from edge_agent.normalise.wanted import Conversions
from learning_core.memory.novelty import Rule
from protos.settings import Address, Section, Upstream

OFFLOAD_PORT = 8444


class Fog(Upstream):
    """The site's fog."""


class TelemetrySettings(Section):
    """Where the kernel shows the device's state, how often to look, and how long one look may take."""

    root: Path = Path("/")
    interval_s: float = Field(default=0.5, ge=0.05, le=60)
    deadline_s: float = Field(default=0.2, gt=0, le=10)


class Limits(Section):
    """When the device may train. A reading older than `max_reading_age_s` counts as unknown, and unknown as no.

    What a device does not have is not asked of it, but for a thermometer and for a battery or mains.
    """

    max_soc_temp_c: float = Field(default=70.0, gt=0, le=120)  # or the chip's own lowest trip point, if that is lower
    resume_soc_temp_c: float = Field(default=65.0, gt=0, le=120)
    max_battery_temp_c: float = Field(default=45.0, gt=0, le=80)
    trend_s: float = Field(default=20.0, gt=0, le=600)  # how far back the rise of the temperature is measured
    min_seconds_to_trip: float = Field(default=10.0, ge=0)  # as forecast from that rise; 0: no forecast
    min_charge: float = Field(default=0.3, ge=0, le=1)
    needs_charger: bool = False
    max_reading_age_s: float = Field(default=5.0, gt=0)
    needs_thermometer: bool = True  # false: train even where the kernel shows no temperature (a virtual machine)
    max_cpu_pressure: float | None = Field(default=None, ge=0, le=1)  # of others than the learner; None: not looked at
    max_memory_pressure: float | None = Field(default=0.3, ge=0, le=1)
    min_free_memory_mib: float = Field(default=128.0, ge=0)
    resume_free_memory_mib: float = Field(default=384.0, ge=0)  # more, since a learner that starts takes some itself
    allow_metered: bool = False
    absent_is_metered: bool = False  # true: a network of which nothing tells whether bytes cost money counts as if
    quiet_hours: tuple[Window, ...] = ()  # "22:00-07:00" on the local clock: no training then
    min_samples: int = Field(default=8, ge=1)
    min_dwell_s: float = Field(default=2.0, ge=0)  # from a stop to the next start; a stop never waits
    max_joules_per_day: float | None = Field(default=None, ge=0)
    max_bytes_per_day: int | None = Field(
        default=None, ge=0
    )  # traffic with the fog; no round begins that would pass it
    learner_w: float = Field(default=6.0, gt=0)  # what one core that learns draws beyond idling, for the joules above

    @model_validator(mode="after")
    def _resumes_with_room(self) -> "Limits":
        if self.resume_soc_temp_c > self.max_soc_temp_c:
            raise ValueError("resume_soc_temp_c has to be at most max_soc_temp_c")
        if self.resume_free_memory_mib < self.min_free_memory_mib:
            raise ValueError("resume_free_memory_mib has to be at least min_free_memory_mib")
        return self

    @property
    def piece_j(self) -> float:
        """Energy is booked ahead in pieces: what a learner may use after the last look at which it was let go on."""
        return self.learner_w * self.max_reading_age_s


def _loopback(text: str) -> str:
    if not re.fullmatch(r"(127\.0\.0\.1|localhost|\[::1\]):\d{1,5}", text, re.ASCII):
        raise ValueError("the HTTP door is for programs on this device: set 127.0.0.1 or [::1] with a port")
    return text.replace("localhost", "127.0.0.1")


LoopbackAddress = Annotated[str, AfterValidator(_loopback)]


class Source(Section):
    """The folder into which any program drops samples, by default `<state>/spool`, and how they are made to fit."""

    spool: Path | None = None
    interval_s: float = Field(default=0.25, ge=0.01, le=3600)
    max_file_bytes: int = Field(default=16 << 20, ge=1 << 14)
    max_set_aside_bytes: int = Field(default=64 << 20, ge=1 << 16)  # of refused and unsure ones; the oldest give way
    program: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")
    program_path: Path | None = None  # where the module of "module:name" lies, if it is not installed
    retry_s: float = Field(default=30.0, ge=0.1)  # until a program that ended or failed is started again
    floats: Span = Span.SIGNED  # what the floats of an image lie between, unless the observation says
    resize: bool = False
    mean: tuple[float, ...] = ()  # of vectors, one number for each feature; with spread: (x - mean) / spread
    spread: tuple[Annotated[float, Field(gt=0)], ...] = ()
    min_certainty: float = Field(default=0.9, ge=0, le=1)  # to believe the judge where no class came; 1: never

    @model_validator(mode="after")
    def _standardises_whole(self) -> "Source":
        if len(self.mean) != len(self.spread):
            raise ValueError("mean and spread need one number each for every feature")
        return self

    def conversions(self) -> Conversions:
        return Conversions(self.floats, self.resize, self.mean, self.spread)


class Memory(Section):
    """How much of the stream is kept, and in how many bytes."""

    max_bytes: int = Field(default=8 << 20, ge=1 << 10, le=48 << 20)  # one file to the learner, which takes 64 MiB
    keep_share: float = Field(default=0.3, gt=0, le=1)
    duplicate_below: float = Field(default=0.25, gt=0, lt=1)

    def rule(self) -> Rule:
        return Rule(keep_share=self.keep_share, duplicate_below=self.duplicate_below)


class Learning(Section):
    """One local fit, and the child process that does it."""

    steps: int = Field(default=60, ge=1)
    batch: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=1.5e-2, gt=0)
    slice_steps: int = Field(default=10, ge=1)  # between two checkpoints
    linger_s: float = Field(default=30.0, ge=0)  # how long an idle learner keeps its libraries loaded
    patience_s: float = Field(default=5.0, ge=0)  # how long a stopped job waits to go on before the round is declined
    scheduling: Literal["idle", "nice"] = "idle"
    personal: bool = False  # also an adapter of this device's own, on top of the shared one, which never leaves it
    max_memory_mib: int = Field(default=1024, ge=64)  # a learner that needs more ends, and says so
    seed: int = 0


class ServingSettings(Section):
    """How images are made on request, and where: by default `<state>/agent.sock`."""

    socket: Path | None = None
    max_count: int = Field(default=64, ge=1)
    min_quality: float = Field(default=0.8, ge=0, le=1)  # as low a device at its limits may go, unasked
    max_joules_per_day: float | None = Field(default=None, ge=0)  # of answers; learning has its own in [limits]
    http: LoopbackAddress | None = None  # "127.0.0.1:8787": also by HTTP, for programs on this device
    http_open: bool = False  # true: without the token in <state>/http.token


class Privacy(Section):
    """What this device may leak in its life, at `target_delta`, counted without help from random sampling."""

    max_epsilon: float = Field(default=10.0, gt=0)
    target_delta: float = Field(default=1e-5, gt=0, lt=1)


class Offload(Section):
    """Learning at the fog when the device cannot. What leaves is clipped and noised, unless the owner allows more."""

    enabled: bool = False
    address: Address | None = None  # by default the fog's host, on port 8444
    allow_raw_offload: bool = False  # for a fog of the device's owner: samples leave as they were taken, uncounted
    clip_norm: float = Field(default=8.0, gt=0)  # the length of an 8 x 8 image of -1 and 1
    noise_multiplier: float = Field(default=3.0, gt=0)
    max_samples: int = Field(default=32, ge=1)  # noised ones, in the device's life with these settings
    deadline_s: float = Field(default=30.0, gt=0, le=600)  # of one call
    poll_s: float = Field(default=1.0, ge=0.01)
    look_s: float = Field(default=30.0, ge=0.1)  # between two questions whether the fog would learn


class Trials(Section):
    """How long a new release or adapter is on trial before it is good."""

    answers: int = Field(default=20, ge=1, le=64)  # finite ones, and as fast as without it
    quiet_s: float = Field(default=60.0, gt=0)  # where fewer are asked for, the golden set decides after this


class HealingSettings(Section):
    """Finding what makes answers bad, and mending it, in a thread of its own that takes half a percent of a core."""

    enabled: bool = True
    off: tuple[Remedy, ...] = ()  # remedies that are never used
    tick_s: float = Field(default=30.0, ge=0.05, le=3600)  # between two looks, longer where one takes long
    max_remedies_per_incident: int = Field(default=4, ge=1, le=20)
    max_uses_per_day: int = Field(default=6, ge=0)  # of each remedy


class AgentSettings(Section):
    """One device."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    state: Path
    fog: Fog
    telemetry: TelemetrySettings = TelemetrySettings()
    limits: Limits = Limits()
    source: Source = Source()
    memory: Memory = Memory()
    learning: Learning = Learning()
    serving: ServingSettings = ServingSettings()
    privacy: Privacy = Privacy()
    trials: Trials = Trials()
    offload: Offload = Offload()
    healing: HealingSettings = HealingSettings()

    @property
    def spool(self) -> Path:
        return self.source.spool or self.state / "spool"

    @property
    def offload_address(self) -> str:
        return self.offload.address or f"{self.fog.address.rpartition(':')[0]}:{OFFLOAD_PORT}"

    @property
    def socket(self) -> Path:
        return self.serving.socket or self.state / "agent.sock"
