"""Files that appear under their name only when they are whole, and refusals by the file system as `NoSpace`.

That outlives a killed process; against a power cut nothing is flushed to the disk file by file.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from masklet.errors import NoSpace

_ADVICE = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "Make room or choose another folder; finished files are kept.",
    (errno.EACCES, errno.EPERM, errno.EROFS): "Choose a folder this user may write to, or change its permissions.",
    (
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
    ): "A file stands where a folder must be, or the reverse: choose another.",
    (errno.ENAMETOOLONG,): "Choose a shorter name.",
    (errno.ENOENT,): "The folder was never made, or somebody removed it: make it, or choose another.",
}


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn a refusal by the file system inside the block into `NoSpace`, with the path and the way out."""
    try:
        yield
    except OSError as error:
        advice = next((text for kinds, text in _ADVICE.items() if error.errno in kinds), "Check the disk.")
        raise NoSpace(f"Cannot write {path}: {error.strerror or error}{_room(path)}. {advice}") from error


def _room(path: Path) -> str:
    with suppress(OSError):
        disk = shutil.disk_usage(path.parent)
        return f" ({disk.free / 1e6:,.1f} MB free of {disk.total / 1e6:,.1f} MB)"
    return ""


def make_folder(path: Path) -> None:
    """Make a folder and those above it; one that is there already is fine."""
    with refusals(path):
        path.mkdir(parents=True, exist_ok=True)


class Draft:
    """A file on its way: written under a temporary name in the same folder, until `publish` or `discard`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        # A short name of its own, so that the longest legal target name still has room; open(), unlike
        # tempfile, gives the published file the permissions everybody's files have.
        self._temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        with refusals(path):
            self._file = open(self._temporary, "x+b", buffering=0)  # noqa: SIM115

    def write(self, data: bytes, *, at: int | None = None) -> None:
        """Write all of `data` at an offset (default: the end) and end the file there, or leave it as it was."""
        start = self.size if at is None else at
        with refusals(self.path):
            try:
                self._file.seek(start)
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except BaseException:
                self._file.truncate(start)
                raise
        self.size = start + len(data)

    def read(self, start: int, length: int) -> bytes:
        """Give back what was written."""
        with refusals(self.path):
            self._file.seek(start)
            return self._file.read(length)

    def publish(self) -> None:
        """Let the file appear under its name, in place of an older one; on failure nothing is left of it."""
        try:
            with refusals(self.path):
                self._file.truncate(self.size)
                self._file.close()
                os.replace(self._temporary, self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Leave no trace; never fails, and does nothing to a published file."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Draft]:
    """Write one file whole or not at all: the block writes to the draft, its end publishes it, an error discards it."""
    draft = Draft(path)
    try:
        yield draft
    except BaseException:
        draft.discard()
        raise
    draft.publish()


@contextmanager
def draft_path(path: Path) -> Iterator[Path]:
    """As `atomic_write`, for those who must be given a name: the file there is renamed at the end of the block."""
    make_folder(path.parent)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield temporary
        with refusals(path):
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
