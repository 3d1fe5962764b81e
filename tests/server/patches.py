"""A film of coloured patches, whose masks anybody can compute, and predictions about it."""

import time
from fractions import Fraction

import numpy as np
from shell import PATIENCE_S

from masklet.jobs import NewPrediction
from masklet.video import VideoWriter, open_video

HEIGHT, WIDTH, FRAMES = 48, 64, 6
RED, BLUE = (230, 40, 40), (40, 60, 230)
ON_RED, ON_BLUE, ON_GROUND = "[14,14]", "[50,40]", "[32,44]"


def picture(frame):
    """Return a frame: a red patch that goes right, a blue one that stays, on grey."""
    rgb = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    rgb[8:24, 8 + 2 * frame : 24 + 2 * frame] = RED
    rgb[32:44, 44:60] = BLUE
    return rgb


def write_film(path, frames=FRAMES):
    """Write the film as MP4."""
    with VideoWriter(path, fps=Fraction(10)) as film:
        for frame in range(frames):
            film.write(picture(frame))
    return path


def near(film, colour_at, frame):
    """Return the mask of what has, on a frame, the colour that frame 0 has at x, y."""
    x, y = colour_at
    with open_video(film) as video:
        first, wanted = (next(video.frames_at([index])).rgb.astype(int) for index in (0, frame))
    return np.abs(wanted - first[y, x]).max(axis=-1) <= 40


def upload(store, film, owner="ann"):
    """Upload the film."""
    path = store.uploads.temporary()
    path.write_bytes(film.read_bytes())
    return store.uploads.add(owner, path, name="film.mp4", content_type="video/mp4", keep_s=3_600.0)


def ask(store, film, *, owner="ann", webhook=None, cancel_after_s=None, **said):
    """Accept a prediction about the film; `said` are inputs besides one click on the red patch."""
    file = upload(store, film, owner)
    given = {"input_video": f"http://127.0.0.1/v1/files/{file.id}", "click_coordinates": ON_RED, "output_format": "png"}
    new = NewPrediction(
        owner=owner,
        model="meta/sam-2-video",
        version="v",
        weights="nano",
        input=given | said,
        files={"input_video": file.id},
        webhook=webhook,
        cancel_after_s=cancel_after_s,
    )
    return store.create(new).prediction


def see(store, prediction):
    return store.get(prediction.id, owner=None)


def wait_for(condition, seconds=PATIENCE_S):
    """Wait until something is so; returns it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)
    return found


def ended(store, prediction, seconds=PATIENCE_S):
    """Wait for a prediction's end."""
    wait_for(lambda: see(store, prediction).ended, seconds)
    return see(store, prediction)


def masks_of(prediction):
    """Return the bytes of a prediction's pictures."""
    return [output.path.read_bytes() for output in prediction.outputs]
