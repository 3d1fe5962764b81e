"""Strangers' videos, opened in a process of their own: the worker sees pixels and never the file.

The process (`decoder.py`) is started fresh for each video, without this one's environment, under limits, and, where
bubblewrap works, without network, files (but the video and what Python needs) or sight of other processes. Whatever it
says is checked here, since a video may have taken it over.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from itertools import count, pairwise
from pathlib import Path
from shutil import which
from threading import Lock
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from masklet.jobs import ErrorCode
from masklet.server.decoder import ABOUT, CLOSE, FRAME, MESSAGE, NEXT, READ, READY, REFUSAL, REQUEST, STAMPS, Limits
from masklet.server.duty import Intake
from masklet.server.failures import JobFailure
from masklet.video import Video

Sandbox = Literal["bubblewrap", "limits only"]
Check = Callable[[], None]
"""Called several times a second; raises what stops the work."""

PROGRAM = (sys.executable, "-P", "-s", "-m", "masklet.server.decoder")
IMPORTED = ("masklet", "numpy", "av", "PIL")
"""What the decoder needs to find."""
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives", "/nix/store", "/gnu/store")
LOCK = (
    *("--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"),
    *("--hostname", "decoder", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/"),  # noqa: S108 - the decoder's own
)
INSIDE = "/video"
"""The file's name in there."""
PROBE_S = 20.0
SLICE_MS = 100
END_S = 2.0
MOST_REFUSAL_BYTES = 4_096
MOST_ABOUT_BYTES = 4_096
MOST_NUMBER = 2**31
_CODES: dict[str, ErrorCode] = {
    "BadVideo": "E_UNSUPPORTED_MEDIA",
    "NoFrames": "E_NO_FRAMES",
    "TooLarge": "E_TOO_LARGE",
    "SizeChanged": "E_GEOMETRY_CHANGED",
}


@cache
def sandbox() -> Sandbox:
    """Say how well the decoder is locked in here: tried once, by starting one."""
    if sys.platform != "linux" or which("bwrap") is None:
        return "limits only"
    program = _locked(PROGRAM, None)
    limits = json.dumps(_limits(Intake()))
    with suppress(OSError, subprocess.TimeoutExpired):
        tried = subprocess.run(  # noqa: S603
            [*program, limits], stdin=subprocess.DEVNULL, capture_output=True, env=_environment(), timeout=PROBE_S
        )
        if tried.returncode == 0 and tried.stdout == MESSAGE.pack(READY, 0):
            return "bubblewrap"
    return "limits only"


def open_apart(path: Path, intake: Intake, *, check: Check = lambda: None, program: Sequence[str] = PROGRAM) -> Video:
    """Open a video in a process of its own; closing it ends that. Raises `JobFailure`, here and while it is read.

    `check` is called while the process is waited for.
    """
    child = _Child(path, intake, check, program)
    try:
        return _ApartVideo(path, _ApartReader(child, intake), child)
    except BaseException:
        child.end()
        raise


class _ApartVideo(Video):
    def __init__(self, path: Path, reader: "_ApartReader", child: "_Child") -> None:
        super().__init__(path, reader)
        self._child = child

    def close(self) -> None:
        """End the process."""
        self._child.end()


class _ApartReader:
    """Frames from the decoder; nothing that it says is taken on trust."""

    has_audio = False
    """Sound would have to be decoded here."""

    def __init__(self, child: "_Child", intake: Intake) -> None:
        self._child, self._numbers = child, count()
        try:
            about = _read_json(child.hear(ABOUT, MOST_ABOUT_BYTES))
            self.height, self.width = _positive(about["height"]), _positive(about["width"])
            self.time_base = _ratio(about["time_base"])
            self.average_rate = None if about["rate"] is None else _ratio(about["rate"])
        except (ValueError, KeyError):
            child.disbelieve()
        self.pts: array[int] = array("q")
        stamps = child.hear(STAMPS, intake.most_frames * self.pts.itemsize)
        if not stamps or len(stamps) % self.pts.itemsize:
            child.disbelieve()
        self.pts.frombytes(stamps)
        if self.height * self.width > intake.most_pixels or any(
            after <= before for before, after in pairwise(self.pts)
        ):
            child.disbelieve()

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield frames `start` to `stop - 1`."""
        number, size = next(self._numbers), self.height * self.width * 3
        self._child.ask(READ, number, start, stop)
        try:
            for _ in range(start, stop):
                pixels = self._child.hear(FRAME, size, after=(NEXT, number, 0, 0))
                if len(pixels) != size:
                    self._child.disbelieve()
                yield np.frombuffer(pixels, np.uint8).reshape(self.height, self.width, 3)
        finally:
            self._child.ask(CLOSE, number, 0, 0)


class _Child:
    """The process, and the talk with it. Every end of it that was not asked for is a `JobFailure`."""

    def __init__(self, path: Path, intake: Intake, check: Check, program: Sequence[str]) -> None:
        self._patience_s, self._check, self._lock = intake.decode_s, check, Lock()
        self._path = str(path)
        locked = sandbox() == "bubblewrap"
        self._name = INSIDE if locked else self._path
        # Never a fork of this process: it has threads, secrets, and a model in its memory.
        self._process = subprocess.Popen(  # noqa: S603
            [*(_locked(program, path) if locked else program), json.dumps(_limits(intake)), self._name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a stranger's file is no author of the log
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )

    def ask(self, *request: Any) -> None:
        """Send a request; a process that is gone is noticed by whoever waits for its answer."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(OSError):
                os.write(self._process.stdin.fileno(), REQUEST.pack(*request))

    def hear(self, kind: bytes, most: int, *, after: tuple[Any, ...] | None = None) -> bytearray:
        """Return what the next message holds, `after` a request; raises if it is another, or longer than it may be."""
        with self._lock:
            if after is not None:
                self.ask(*after)
            until = time.monotonic() + self._patience_s
            said, length = MESSAGE.unpack(self._read(MESSAGE.size, until))
            if said == REFUSAL and length <= MOST_REFUSAL_BYTES:
                self._refused(bytes(self._read(length, until)))
            if said != kind or length > most:
                self.disbelieve()
            return self._read(length, until)

    def disbelieve(self) -> NoReturn:
        """Give up on a process that says what the decoder never would."""
        self._fail("E_DECODER_CRASHED", "The decoder broke on this video: re-encode it, for instance as H.264 in MP4.")

    def end(self) -> None:
        """End the process and what it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)

    def _read(self, length: int, until: float) -> bytearray:
        """Read exactly so many bytes."""
        pipe = self._process.stdout
        if pipe is None or pipe.closed:
            self._gone()
        data, waiting = bytearray(length), select.poll()
        waiting.register(pipe, select.POLLIN)
        rest = memoryview(data)
        while rest:
            self._check()
            if time.monotonic() > until:
                text = f"The decoder took longer than {self._patience_s:g} s over this video: re-encode it."
                self._fail("E_DECODER_TIMEOUT", text)
            if waiting.poll(SLICE_MS):
                read = os.readv(pipe.fileno(), [rest])
                if not read:
                    self._gone()
                rest = rest[read:]
        return data

    def _gone(self) -> NoReturn:
        """Say how the process ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        code = self._process.poll() or 0
        number = -code if code < 0 else code - 128  # bubblewrap ends as shells do
        if number == signal.SIGXCPU:
            self._fail("E_DECODER_TIMEOUT", "Decoding this video took too much computing: make it shorter or smaller.")
        self.disbelieve()

    def _refused(self, message: bytes) -> NoReturn:
        try:
            refusal = _read_json(message)
            code, text = _CODES[str(refusal["kind"])], str(refusal["text"])
        except (ValueError, KeyError):
            self.disbelieve()
        printable = "".join(sign for sign in text.replace(self._name, self._path) if sign.isprintable())
        self._fail(code, printable)

    def _fail(self, code: ErrorCode, text: str) -> NoReturn:
        self.end()
        raise JobFailure(code, text)


def _limits(intake: Intake) -> Limits:
    return Limits(
        memory_bytes=intake.decode_bytes,
        cpu_s=int(intake.decode_cpu_s),
        most_pixels=intake.most_pixels,
        most_frames=intake.most_frames,
        most_pixels_in_all=intake.most_pixels_in_all,
        most_s=intake.most_s,
    )


def _read_json(data: bytes | bytearray) -> dict[str, Any]:
    """Read an object; raises `ValueError` for anything else, however it is nested."""
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _positive(value: Any) -> int:
    if type(value) is not int or not 0 < value < MOST_NUMBER:
        raise ValueError(value)
    return value


def _ratio(value: Any) -> Fraction:
    """Read a numerator and a denominator. A fraction's text could be one that takes years to read."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(value)
    return Fraction(_positive(value[0]), _positive(value[1]))


@cache
def _homes() -> tuple[str, ...]:
    """Return the folders that hold what the decoder imports, without the rest of Python's path: that may be any."""
    found = (find_spec(name) for name in IMPORTED)
    return tuple(dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in found if spec and spec.origin))


def _environment() -> dict[str, str]:
    own = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return own | {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(_homes()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",  # each thread's arena would count against the limit of memory
    }


def _locked(program: Sequence[str], path: Path | None) -> list[str]:
    """Return a command that runs a program in bubblewrap, with one file of all that are not Python's."""
    shown = dict.fromkeys((*SYSTEM, sys.base_prefix, sys.prefix, *_homes()))
    binds = [part for place in shown for part in ("--ro-bind-try", place, place)]
    video = [] if path is None else ["--ro-bind", str(path), INSIDE]
    return [which("bwrap") or "bwrap", *LOCK, *binds, *video, *program]
