"""The process that opens a stranger's video: `python -m masklet.server.decoder LIMITS PATH`.

It gives up what it does not need before it looks at the file, and then answers requests on its standard input with
messages on its standard output, until that is closed. Whoever started it believes nothing that it says unchecked.

A request is an operation and three numbers; a message is a kind, a length and so many bytes.
"""

import ctypes
import json
import resource
import signal
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # what opens strangers' files is imported when the limits hold
    from masklet.video import Reader

    Say = Callable[[bytes, Any], None]

REQUEST = struct.Struct(">cqqq")
READ, NEXT, CLOSE = b"R", b"N", b"C"
"""Begin to read (number, start, stop); give the next frame of a reading (number); forget a reading (number)."""
MESSAGE = struct.Struct(">cQ")
ABOUT, STAMPS, FRAME, REFUSAL, READY = b"A", b"T", b"F", b"E", b"R"
OPEN_FILES = 64
CPU_GRACE_S = 2
"""At the limit comes a signal that says why, this much later one that nothing outlives."""
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


class Limits(NamedTuple):
    """What a video may cost, and may be."""

    memory_bytes: int
    cpu_s: int
    most_pixels: int
    """Of one frame."""
    most_frames: int
    most_pixels_in_all: int
    most_s: float


def confine(limits: Limits) -> None:
    """Give up what decoding does not need; nothing takes it back."""
    _limit(resource.RLIMIT_AS, limits.memory_bytes)
    _limit(resource.RLIMIT_CPU, limits.cpu_s, beyond=CPU_GRACE_S)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    if sys.platform == "linux":
        control = ctypes.CDLL(None).prctl
        control(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _limit(kind: int, most: int, *, beyond: int = 0) -> None:
    hard = resource.getrlimit(kind)[1]
    soft, hard = (each if hard == resource.RLIM_INFINITY else min(each, hard) for each in (most, most + beyond))
    resource.setrlimit(kind, (soft, hard))


def open_checked(path: Path, limits: Limits) -> "Reader":
    """Open a video, if it is not larger than it may be; raises `BadVideo`."""
    from masklet.errors import TooLarge
    from masklet.video import open_reader

    film = open_reader(path, most_pixels=limits.most_pixels, most_frames=limits.most_frames)
    in_all, seconds = film.height * film.width * len(film.pts), (film.pts[-1] - film.pts[0]) * film.time_base
    for value, most, unit in (
        (in_all, limits.most_pixels_in_all, "pixels in all its frames"),
        (float(seconds), limits.most_s, "seconds"),
    ):
        if value > most:
            raise TooLarge(f"{path} has {value:,.0f} {unit}: the limit is {most:,.0f}; make it smaller or shorter")
    return film


class _Desk:
    """Answers requests about one video. Works ahead by one frame while nobody waits."""

    def __init__(self, film: "Reader", say: "Say") -> None:
        self._film, self._say = film, say
        self._readings: dict[int, Iterator[Any]] = {}
        self._ahead: dict[int, tuple[bytes, Any]] = {}

    def answer(self, operation: bytes, number: int, start: int, stop: int) -> None:
        """Do what one request wants."""
        if operation == READ:
            self._readings[number] = self._film.read(start, stop)
        elif operation == CLOSE:
            self._readings.pop(number, None)
            self._ahead.pop(number, None)
        elif operation == NEXT:
            self._say(*(self._ahead.pop(number, None) or self._next(number)))
            self._ahead[number] = self._next(number)

    def _next(self, number: int) -> tuple[bytes, Any]:
        try:
            rgb = next(self._readings[number], None)
        except Exception as error:
            return REFUSAL, _refusal(error)
        return FRAME, b"" if rgb is None else memoryview(rgb).cast("B")


def _refusal(error: Exception) -> bytes:
    """Say why a video is refused; an error that is no refusal goes on."""
    from masklet.errors import BadVideo

    if isinstance(error, MemoryError):
        kind, text = "TooLarge", "the video takes more memory to decode than the server gives one: make it smaller"
    elif isinstance(error, BadVideo):
        kind, text = type(error).__name__, str(error)
    else:
        raise error
    return json.dumps({"kind": kind, "text": text}).encode()


def _about(film: "Reader") -> bytes:
    rate = film.average_rate
    about = {"height": film.height, "width": film.width, "time_base": film.time_base.as_integer_ratio()}
    return json.dumps(about | {"rate": rate and rate.as_integer_ratio()}).encode()


def main(open_it: "Callable[[Path, Limits], Reader]" = open_checked) -> None:
    """Serve one video, or, without a path, say that one could be served."""
    limits = Limits(*json.loads(sys.argv[1]))
    confine(limits)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer

    def say(kind: bytes, content: Any) -> None:
        answers.write(MESSAGE.pack(kind, len(content)))
        answers.write(content)
        answers.flush()

    import masklet.video  # noqa: F401 - if this fails, nothing else will do

    if len(sys.argv) == 2:
        say(READY, b"")
        return
    try:
        film = open_it(Path(sys.argv[2]), limits)
        about, stamps = _about(film), array("q", film.pts).tobytes()
    except Exception as error:
        say(REFUSAL, _refusal(error))
        return
    say(ABOUT, about)
    say(STAMPS, stamps)
    desk = _Desk(film, say)
    while len(request := requests.read(REQUEST.size)) == REQUEST.size:
        desk.answer(*REQUEST.unpack(request))


if __name__ == "__main__":
    main()
