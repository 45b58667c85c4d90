"""What a person may set on a fog. Times in seconds, shares 0..1."""

from pathlib import Path

from pydantic import Field, model_validator

from fog_aggregator.plans import Budget, Terms
from protos.settings import Host, Section, Upstream


class Listen(Section):
    """Where devices find this fog. Without a certificate one is made at the first start, for `host` and `names`."""

    host: Host = "127.0.0.1"
    port: int = Field(default=8443, ge=0, le=65535)
    names: tuple[Host, ...] = ()
    certificate: Path | None = None
    private_key: Path | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> "Listen":
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("give certificate and private_key together, or neither")
        return self


class Cloud(Upstream):
    """The cloud, and how often to ask it for news."""

    poll_s: float = Field(default=1.0, ge=0.05, le=3600)


class Privacy(Section):
    """What a round costs a device, and where rounds end. The unit is one device's whole participation.

    A `noise_multiplier` of 0 protects nobody: epsilon is then infinite, and `max_epsilon = inf` has to say so too.
    """

    clip_norm: float = Field(default=1.0, gt=0, le=1e6, allow_inf_nan=False)
    noise_multiplier: float = Field(default=1.0, ge=0, le=1e6, allow_inf_nan=False)
    sample_rate: float = Field(default=0.5, gt=0, le=1)
    target_delta: float = Field(default=1e-5, gt=0, lt=1)
    max_epsilon: float = Field(default=10.0, gt=0)

    def terms(self) -> Terms:
        return Terms(self.clip_norm, self.noise_multiplier, self.sample_rate)

    def budget(self) -> Budget:
        return Budget(self.target_delta, self.max_epsilon)


class Rounds(Section):
    """When a round begins and ends. `quorum`: which share of those asked has to have answered to close it early."""

    min_devices: int = Field(default=2, ge=1)  # enrolled
    min_ready: int = Field(default=1, ge=1)  # of them, when a round begins
    status_deadline_s: float = Field(default=5.0, gt=0)
    deadline_s: float = Field(default=120.0, gt=0)
    quorum: float = Field(default=1.0, gt=0, le=1)
    round_pause_s: float = Field(default=1.0, ge=0)
    idle_pause_s: float = Field(default=10.0, gt=0)  # the longest pause between two looks for ready devices
    patience_s: float = Field(default=10.0, ge=0)  # how long a closed round waits for the cloud's next shared version
    max_lag: int = Field(default=2, ge=0)  # how many shared versions may appear while a device trains


class FogSettings(Section):
    """One fog. `tap`: a file that gets one line on the make-up of every message that crosses a tier."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    state: Path
    listen: Listen = Listen()
    cloud: Cloud
    privacy: Privacy = Privacy()
    rounds: Rounds = Rounds()
    tap: Path | None = None
