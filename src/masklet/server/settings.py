"""Everything about the service that somebody may want to change: `masklet serve --NAME`, or `MASKLET_NAME`.

Each limit is a field with its default and its unit; nothing else in the server holds a number that a stranger can
reach. A flag beats the environment, in which a list is separated by commas.
"""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from masklet.server.auth import LOOPBACK_NAMES, BadSetup, Gate, check_exposure, is_loopback, read_tokens

Bytes = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


def _separated(value: Any) -> Any:
    """Read a list as the environment has it."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


Words = Annotated[list[str], NoDecode, BeforeValidator(_separated)]


def _data_folder() -> Path:
    return Path(platformdirs.user_data_dir("masklet", appauthor=False))


class Settings(BaseSettings):
    """The service's settings."""

    model_config = SettingsConfigDict(env_prefix="MASKLET_", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(8000, description="Port to listen on; 0: any free one.")
    model: str = Field("nano", description="What meta/sam-2-video runs: a name ('masklet models'), file, or hub id.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    dtype: str = Field("auto", description="auto, float32, bfloat16, float16.")
    workers: Annotated[int, Field(ge=0)] = Field(1, description="Processes that hold a model and run predictions.")
    data_dir: Path = Field(default_factory=_data_folder, description="Where predictions and files are kept.")
    token: Words = Field([], description="SECRET or OWNER:SECRET that callers must show; may be repeated.")
    token_file: Path | None = Field(
        None, description="File with one token a line, better than --token: ps shows no file."
    )
    public_url: str | None = Field(None, description="How callers reach this server, if not as they say themselves.")
    allow_host: Words = Field([], description="Further name this server goes by; may be repeated.")
    allow_origin: Words = Field([], description="Origin of a web page elsewhere that may call; may be repeated.")
    tls_cert: Path | None = Field(None, description="Certificate (PEM): speak HTTPS, as file objects of clients need.")
    tls_key: Path | None = Field(None, description="The certificate's private key (PEM).")
    allow_private_urls: bool = Field(
        False, description="Fetch videos from, and send webhooks to, this machine and its network too."
    )
    outputs: Literal["url", "data"] = Field("url", description="Give outputs as addresses, or whole as data: URIs.")
    cog: bool = Field(False, description="Answer /openapi.json as a Cog container does.")
    allow_shutdown: bool = Field(False, description="Let POST /shutdown stop the server, as Cog's does.")
    engine: Literal["real", "stub"] = Field(
        "real", description="stub: colour thresholds instead of a model, for tests."
    )
    metrics_open: bool = Field(False, description="Answer /metrics without a token.")

    json_bytes: Bytes = Field(14_000_000, description="Largest request body, uploads apart: a data: URI and some.")
    data_uri_bytes: Bytes = Field(10_000_000, description="Largest file inside a data: URI.")
    upload_bytes: Bytes = Field(500_000_000, description="Largest upload.")
    uploads_at_once: Count = Field(16, description="Uploads under way at a time; of one owner half as many.")
    body_idle_s: Seconds = Field(20.0, description="A body that stops for so long is given up.")
    header_s: Seconds = Field(10.0, description="So long a client may take to say what it wants.")
    connections: Count = Field(1_024, description="Connections at a time; beyond, 503.")
    wait_s: Seconds = Field(60.0, description="Longest Prefer: wait.")
    wait_margin_s: Seconds = Field(0.5, description="So much earlier an unfinished wait is answered: clients time out.")
    url_s: Count = Field(86_400, description="Life of an output's address.")
    upload_keep_s: Seconds = Field(86_400.0, description="Life of an upload that no prediction uses.")
    data_keep_s: Seconds = Field(86_400.0, description="Life of a finished prediction's input, outputs and logs.")
    row_keep_s: Seconds = Field(2_592_000.0, description="Life of the fact that there was one.")
    run_s: Seconds = Field(1_800.0, description="Longest run of a prediction.")
    load_s: Seconds = Field(300.0, description="Longest loading of a model.")
    stall_s: Seconds = Field(600.0, description="Longest time without a frame.")
    lease_s: Seconds = Field(10.0, description="A worker that is silent for so long has lost its prediction.")
    cancel_s: Seconds = Field(2.0, description="A worker that does not let go of what was cancelled is ended after it.")
    sweep_s: Seconds = Field(60.0, description="Between two looks for what has been kept long enough.")
    stop_s: Seconds = Field(30.0, description="So long a stop waits for what is under way.")
    webhook_s: Seconds = Field(10.0, description="Longest try of a webhook.")
    waiting: Count = Field(10_000, description="Predictions that may wait.")
    waiting_per_owner: Count = Field(2_000, description="Of one owner.")
    fetch_s: Seconds = Field(300.0, description="Longest download of a video.")
    frame_pixels: Count = Field(33_177_600, description="Largest frame of a video: 8K.")
    video_pixels: Count = Field(200_000_000_000, description="Most pixels in all frames of a video.")
    video_frames: Count = Field(36_000, description="Most frames of a video.")
    video_s: Seconds = Field(7_200.0, description="Longest video.")
    decode_s: Seconds = Field(300.0, description="Longest wait for the decoder's next answer.")
    decode_cpu_s: Seconds = Field(3_600.0, description="Most computing on one video's decoding.")
    decode_bytes: Bytes = Field(2 * 2**30, description="Most memory for it.")
    room_bytes: Bytes = Field(256 * 2**20, description="With less free disk nothing new is accepted.")

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together: give both or none")
        return self

    def gate(self) -> Gate:
        """Return who is let in; raises `BadSetup` for a server that would be open to strangers."""
        lines = list(self.token)
        if self.token_file is not None:
            lines += _lines(self.token_file)
        tokens = read_tokens(lines)
        check_exposure(self.host, tokens)
        return Gate(tokens, self.names(), tuple(self.allow_origin))

    def names(self) -> tuple[str, ...] | None:
        """Return the names by which callers may reach this server; None: any."""
        own = [*self.allow_host]
        if self.public_url:
            own.append(_host_of(self.public_url))
        if not is_loopback(self.host) and not own:
            return None  # whatever the network calls it; a token is needed anyway
        return (*LOOPBACK_NAMES, self.host, *own)

    def shown(self) -> dict[str, Any]:
        """Return the settings without secrets."""
        return self.model_dump(mode="json", exclude={"token"})


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise BadSetup(
            f"--token-file {path} cannot be read ({error}): give a text file with one token a line"
        ) from error


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or ""
