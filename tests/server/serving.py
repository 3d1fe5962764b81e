"""The real `masklet serve` in a process of its own, and small films whose masks are known to the pixel."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
from shell import PATIENCE_S

from masklet.video import VideoWriter, open_video

HERE = Path(__file__).parent
CERT, KEY = HERE / "tls" / "cert.pem", HERE / "tls" / "key.pem"
HEIGHT, WIDTH, FRAMES = 48, 64, 6
RED, GROUND = (220, 30, 30), (20, 30, 40)
CLICK = {"click_coordinates": "[10,20]", "click_object_ids": "square"}
"""On the red square, on frame 0."""
HOSTED = "33432afdfc06a10da6b4018932893d39b0159f838b6d11dd1236dff85cc5ec1d"
MODEL = f"meta/sam-2-video:{HOSTED}"
TOKEN = "alice-0123456789abcdef"


def square_at(frame):
    """Return the square's left edge; it is 16 pixels wide and goes right."""
    return 4 + 4 * frame


def mask_of(frame):
    """Return the square's true mask."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[12:28, square_at(frame) : square_at(frame) + 16] = True
    return mask


def write_clip(path, frames=FRAMES):
    """Write a red square on the move as MP4."""
    with VideoWriter(path, fps=Fraction(10)) as film:
        for frame in range(frames):
            rgb = np.full((HEIGHT, WIDTH, 3), GROUND, np.uint8)
            rgb[mask_of(frame)] = RED
            film.write(rgb)
    return path


def write_beginning_of_example(path, frames=3):
    """Write the first frames of the example clip as MP4."""
    example = HERE.parents[1] / "examples" / "bunny.mp4"
    with open_video(str(example)) as video, VideoWriter(path, fps=Fraction(10)) as film:
        for frame in islice(video.frames(), frames):
            film.write(frame.rgb)
    return path


@dataclass
class Served:
    """A server that runs."""

    url: str
    process: subprocess.Popen
    data_dir: Path
    log: list = field(default_factory=list)
    """Lines of its log, as JSON where they are."""

    def client(self, token=None, **more):
        """Return an HTTP client for it."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        trust = ssl.create_default_context(cafile=CERT) if self.url.startswith("https") else False
        return httpx.Client(base_url=self.url, headers=headers, verify=trust, timeout=PATIENCE_S, **more)

    def stop(self, number=signal.SIGTERM):
        """Stop it by a signal and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextmanager
def serving(data_dir, *flags, engine="stub", ready=True, **environment):
    """Run a server while the block lasts, on a port of its own."""
    command = [sys.executable, "-m", "masklet", "serve", "--port", "0", "--data-dir", str(data_dir), "--engine", engine]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MASKLET_")} | environment
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True, env=variables)
    served = Served("", process, Path(data_dir))
    reader = Thread(target=_read_log, args=(process, served.log), daemon=True)
    reader.start()
    try:
        served.url = _wait_for(lambda: _listening(served), process)
        if ready:
            with served.client() as client:
                _wait_for(lambda: client.get("/readyz").status_code == 200, process)
        yield served
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stderr.close()


def _read_log(process, log):
    for line in process.stderr:
        try:
            log.append(json.loads(line))
        except ValueError:
            log.append({"event": line.rstrip()})


def _listening(served):
    return next((entry["url"] for entry in served.log if entry.get("event") == "listening"), None)


def _wait_for(found, process):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        assert process.poll() is None, "the server ended"
        time.sleep(0.05)
    raise AssertionError("the server did not start in time")


def wait_until_ended(client, id):
    """Return a prediction when it has ended."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        prediction = client.get(f"/v1/predictions/{id}").json()
        if prediction["status"] in ("succeeded", "failed", "canceled"):
            return prediction
        time.sleep(0.03)
    raise AssertionError(f"{id} did not end in time")


def wait_until(happened):
    """Wait for something that a server does by itself, soon."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.03)
