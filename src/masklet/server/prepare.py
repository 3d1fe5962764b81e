"""The seam through which a prediction's video comes in: what was sent becomes a local file that is safe to open."""

from collections.abc import Callable
from pathlib import Path

from masklet.jobs import Claim
from masklet.server.failures import JobFailure

Prepare = Callable[[Claim, Path, Callable[[], None]], Path]
"""Makes the video a local file, in a folder that lasts as long as the attempt, and returns its path.

The function it is given raises when the work is to stop: call it several times a second. Raises `JobFailure`.
"""


def prepare(claim: Claim, folder: Path, check: Callable[[], None]) -> Path:
    """Find the upload that the input means; doors have made one of each `data:` URI."""
    check()
    upload = claim.uploads.get("input_video")
    if upload is None:
        raise JobFailure("E_URL_FORBIDDEN", "This server fetches no addresses: upload the video to /v1/files.")
    return upload
