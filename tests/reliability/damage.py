"""Cuts and changes videos anywhere, and has the service's decoder read them, in its own process and sandbox.

    PYTHONPATH=tests python -m reliability.damage --cuts 300 --mutants 1250

Fit is whatever gives frames, one error with a code, or some frames and then an error; of a cut file the frames must be
those of the whole one. Never fit: no frame and no error, another exception, a decoder that dies or hangs, and a process
that stays.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from films import AV1, H264, HEVC, KINDS, MJPEG, MPEG2, MPEG4, VP9, number_in, picture, write_film

from masklet.jobs import ERROR_CODES
from masklet.server.decode import open_apart, sandbox
from masklet.server.duty import Intake
from masklet.server.failures import JobFailure
from masklet.video import open_video

FILMS = (H264, H264.to("ts"), HEVC.to("ts"), VP9, AV1, MPEG4, MPEG2, MJPEG, KINDS["GIF"])
PICTURES = 9
PATIENT = Intake(decode_s=60.0, decode_cpu_s=60)


def read(path):
    """Return the frames that the decoder gave, and the code of the error that ended them, or ''."""
    came = []
    try:
        with open_apart(path, PATIENT) as video:
            came.extend(video.frames())
    except JobFailure as failure:
        return came, failure.code
    return came, ""


def name_end(came, code, whole=None):
    """Say what became of a file, or what is wrong with that; `whole`: the frames of the uncut film."""
    if code not in ("", *ERROR_CODES) or code in ("E_INTERNAL", "E_DECODER_CRASHED", "E_DECODER_TIMEOUT"):
        return f"WRONG: {code}"
    if not came:
        return code or "WRONG: an empty success"
    if whole is not None and not shows_the_same(came, whole):
        return "WRONG: other frames than those of the whole film"
    return f"frames, then {code}" if code else "frames"


def shows_the_same(came, whole):
    numbers = [number_in(frame.rgb) for frame in came]
    rising = numbers == sorted(set(numbers))
    pairs = zip(numbers, came, strict=True)
    return rising and all(n in whole and np.array_equal(frame.rgb, whole[n]) for n, frame in pairs)


def damage(folder, kind, cuts, mutants, seed=2):
    """Count what became of so many cut and so many changed files of a kind."""
    path = write_film(folder / f"film.{kind.suffix}", kind, pictures=[picture(n) for n in range(PICTURES)])
    data = path.read_bytes()
    with open_video(path) as video:
        whole = {number_in(frame.rgb): frame.rgb for frame in video.frames()}
    assert len(whole) == PICTURES
    ends, slowest_s, dice = {"cut": Counter(), "changed": Counter()}, 0.0, np.random.default_rng(seed)
    for size in np.linspace(0, len(data) - 1, cuts).astype(int):
        path.write_bytes(data[:size])
        began = time.monotonic()
        ends["cut"][name_end(*read(path), whole)] += 1
        slowest_s = max(slowest_s, time.monotonic() - began)
    for _ in range(mutants):
        mutant = bytearray(data)
        for at in dice.integers(0, len(data), 6):
            mutant[at] ^= int(dice.integers(1, 256))
        path.write_bytes(mutant)
        began = time.monotonic()
        ends["changed"][name_end(*read(path))] += 1
        slowest_s = max(slowest_s, time.monotonic() - began)
    return ends, slowest_s


def left(folder):
    """Return the processes that know a folder by their command."""
    commands = (process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"]))
    return [command for command in commands if any(str(folder) in part for part in command)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=300, help="of each kind of file")
    parser.add_argument("--mutants", type=int, default=1_250, help="of each kind of file")
    given = parser.parse_args()
    wrong = 0
    sys.stdout.write(f"sandbox: {sandbox()}\n")
    with tempfile.TemporaryDirectory() as folder:
        for kind in FILMS:
            ends, slowest_s = damage(Path(folder), kind, given.cuts, given.mutants)
            for how, counts in ends.items():
                sys.stdout.write(f"{kind!s:<20}{how:<9}{dict(counts)}\n")
                wrong += sum(count for end, count in counts.items() if end.startswith("WRONG"))
            sys.stdout.write(f"{kind!s:<20}slowest  {slowest_s:.2f} s\n")
            sys.stdout.flush()
        stayed = left(folder)
    sys.stdout.write(f"{wrong} wrong, {len(stayed)} processes stayed\n")
    sys.exit(1 if wrong or stayed else 0)


if __name__ == "__main__":
    main()
