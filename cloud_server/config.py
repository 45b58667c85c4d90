"""The cloud's settings: defaults run the digits demonstration."""

from pathlib import Path

from pydantic import Field

from protos.settings import Host, Section


class Listen(Section):
    """Where fogs find us. `names`: further host names or addresses the certificate is to hold."""

    host: Host = "127.0.0.1"
    port: int = Field(default=9443, ge=0, le=65535)
    names: tuple[Host, ...] = ()


class Network(Section):
    """Size and training of one generator."""

    width: int = Field(default=64, ge=4, le=1024)
    depth: int = Field(default=3, ge=1, le=24)
    heads: int = Field(default=4, ge=1, le=16)
    steps: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=2e-2, gt=0, le=1)


class Training(Section):
    """How the first release is made. Base conditions are all that teacher and student ever see of real data."""

    seed: int = Field(default=0, ge=0)
    hold_out: float = Field(default=0.2, gt=0, lt=1)
    base_conditions: tuple[int, ...] = (0, 1, 2, 3, 4)
    patch: int = Field(default=2, ge=1)
    batch: int = Field(default=48, ge=1)
    teacher: Network = Network(width=96, depth=4, steps=400)
    student: Network = Network()
    rank: int = Field(default=8, ge=1, le=256)
    alpha: float = Field(default=16.0, gt=0)


class Gates(Section):
    """What a candidate must reach to be published. Fidelities are shares 0..1."""

    min_new_gain: float = Field(default=0.05, ge=-1, le=1)
    max_fidelity_drop: float = Field(default=0.02, ge=0, le=1)
    max_kid_rise: float = Field(default=0.2, ge=0)
    max_out_of_range: float = Field(default=0.1, ge=0, le=1)
    known_from: float = Field(default=0.8, ge=0, le=1)  # a new condition this good counts as known from then on


class DeviceGates(Section):
    """What a device's own adapter must reach on the golden set before it is served; part of each manifest."""

    max_fidelity_drop: float = Field(default=0.02, ge=0, le=1)
    max_kid_rise: float = Field(default=0.2, ge=0)
    max_out_of_range: float = Field(default=0.1, ge=0, le=1)


class Release(Section):
    """When a release is due, how it is distilled, sampled and examined."""

    steps_per_release: int = Field(default=4, ge=1)
    patience_s: float = Field(default=30.0, ge=0)
    max_staleness: int = Field(default=4, ge=0)
    sampler_steps: int = Field(default=10, ge=1, le=1000)
    guidance: float = Field(default=1.5, ge=0, le=100)
    pool_guidance: float = Field(default=2.0, ge=0, le=100)  # of what devices taught, drawn to be distilled
    distilled_guidance: float = Field(default=1.25, ge=0, le=100)
    pool_size: int = Field(default=1000, ge=10)
    distil_steps: int = Field(default=150, ge=1)
    distil_learning_rate: float = Field(default=5e-3, gt=0, le=1)
    images_per_condition: int = Field(default=100, ge=40)
    golden_images: int = Field(default=100, ge=1)
    gates: Gates = Gates()
    device_gates: DeviceGates = DeviceGates()


class Settings(Section):
    """Everything, as in the file given to --config."""

    state: Path = Path("cloud-state")
    data: str = Field(default="digits", pattern="^digits$")
    listen: Listen = Listen()
    training: Training = Training()
    release: Release = Release()
