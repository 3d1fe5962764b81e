"""What the server and its workers agree on. Light, because the server itself needs none of a worker's libraries."""

import json
from dataclasses import asdict, dataclass, field

from masklet.jobs import LEASE_S

SETUP_FAILED = 3
"""Exit code of a worker whose model could not be loaded."""


@dataclass(frozen=True)
class Patience:
    """How long a worker is waited for."""

    lease_s: float = LEASE_S
    """Without a heartbeat."""
    stall_s: float = 600.0
    """Without a frame, heartbeats or not."""


@dataclass(frozen=True)
class Intake:
    """What is taken in from strangers, and at what cost."""

    private_urls: bool = False
    """Whether addresses of videos may lie in this machine's own network."""
    fetch_s: float = 300.0
    most_bytes: int = 500_000_000
    most_pixels: int = 33_177_600
    """Of one frame: 8K."""
    most_pixels_in_all: int = 200_000_000_000
    most_frames: int = 36_000
    most_s: float = 7_200.0
    decode_s: float = 300.0
    """Longest wait for the decoder's next answer."""
    decode_cpu_s: float = 3_600.0
    decode_bytes: int = 2 * 2**30


@dataclass(frozen=True)
class Duty:
    """What a worker is told. It knows no tokens and no addresses."""

    data_dir: str
    boot_id: str
    name: str
    report_fd: int
    engine: str = "real"
    weights: str = "nano"
    device: str = "auto"
    dtype: str = "auto"
    stop_s: float = 20.0
    """So long it may go on with a prediction after it was asked to stop, if that one ends in time."""
    patience: Patience = field(default_factory=Patience)
    intake: Intake = field(default_factory=Intake)
    stub_load_s: float = 0.0

    def as_text(self) -> str:
        """Write it for the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> "Duty":
        """Read `as_text`."""
        values = json.loads(text)
        parts = {"patience": Patience(**values["patience"]), "intake": Intake(**values["intake"])}
        return cls(**(values | parts))
