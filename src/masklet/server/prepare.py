"""The seam through which a prediction's video comes in: what was sent becomes frames, which another process reads."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from masklet.jobs import Claim
from masklet.server.decode import open_apart
from masklet.server.duty import Intake
from masklet.server.egress import Egress
from masklet.video import Video

Prepare = Callable[[Claim, Path, Callable[[], None]], Video]
"""Opens the video, with a folder that lasts as long as the attempt; who called it closes it.

The function it is given raises when the work is to stop: it is called several times a second, later too, while frames
are waited for. Raises `JobFailure`.
"""
DOWNLOAD = "download"
"""The name of a fetched file: never one that its sender chose."""


def prepare(claim: Claim, folder: Path, check: Callable[[], None], intake: Intake | None = None) -> Video:
    """Open the upload that the input means, or fetch what it names; doors have made an upload of each `data:` URI."""
    intake = Intake() if intake is None else intake
    check()
    path = claim.uploads.get("input_video")
    if path is None:
        path, url = folder / DOWNLOAD, str(claim.prediction.input["input_video"])
        egress = Egress(private=intake.private_urls)
        egress.fetch(url, path, most_bytes=intake.most_bytes, within_s=intake.fetch_s, check=check)
    return open_apart(path, intake, check=check)


def preparing(intake: Intake) -> Prepare:
    """Return `prepare` with the limits of a server."""
    return partial(prepare, intake=intake)
