"""The real model through each real client: the frames are those of the command line, to the byte."""

import hashlib
import os
import subprocess
import sys

import pytest

from server.clients.expected import CERT, KEY
from server.clients.talk import CLIENTS, talk
from server.serving import MODEL, TOKEN, serving, write_beginning_of_example

FRAMES = 3
CLICKS = {"click_coordinates": "[245,60],[510,190]", "click_object_ids": "bunny,rock"}
DRAWN = {"mask_type": "highlighted", "annotation_type": "both", "output_format": "png"}


@pytest.fixture(scope="module")
def bunny(tmp_path_factory):
    """Return the beginning of the example clip."""
    return write_beginning_of_example(tmp_path_factory.mktemp("clip") / "bunny.mp4", FRAMES)


@pytest.fixture(scope="module")
def by_command_line(bunny, tmp_path_factory):
    """Return the SHA-256 of each frame that `masklet segment` makes."""
    out = tmp_path_factory.mktemp("out") / "masks"
    flags = [part for name, value in (CLICKS | DRAWN).items() for part in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, "-m", "masklet", "segment", str(bunny), *flags, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.png"))]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    flags = ["--tls-cert", str(CERT), "--tls-key", str(KEY), "--token", TOKEN]
    with serving(tmp_path_factory.mktemp("data"), *flags, engine="real", OMP_NUM_THREADS="1") as server:
        yield server


@pytest.mark.parametrize("client", CLIENTS)
def test_the_frames_equal_the_command_lines(client, server, bunny, by_command_line):
    assert len(by_command_line) == FRAMES
    about = {"url": server.url, "token": TOKEN, "video": str(bunny), "version": MODEL, "input": CLICKS | DRAWN}
    seen = talk(client, ["run_version"], **about)
    assert by_command_line == seen["run_version"]["sha256"]
