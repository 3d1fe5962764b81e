"""The data folder: where everything is, who has it, and how a file in it becomes durable.

masklet.db                        the database (and its -wal and -shm: together they are the data; copy all or none)
masklet.db-mark                   how many predictions were accepted: tells when a part of the above is missing
lock                              held by the running server
uploads/ID                        uploads
outputs/PREDICTION/TOKEN/NAME     results; each claim has a folder of its own, so a late worker overwrites nothing
work/PREDICTION.TOKEN/            what a running prediction needs, such as its downloaded input
"""

import fcntl
import hashlib
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from masklet.errors import NoSpace
from masklet.files import refusals
from masklet.jobs.records import Lease
from masklet.jobs.refusals import StoreRefused

_CHUNK_BYTES = 2**20
_TRIES = 10
UNFINISHED = ".part"


@dataclass(frozen=True)
class Durable:
    """A file that outlives a power cut, and what is in it."""

    path: Path
    size: int
    sha256: str


class Folder:
    """Paths and files of one data folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "masklet.db"
        self.uploads = root / "uploads"
        self.outputs = root / "outputs"
        self.work = root / "work"
        self._mark = root / "masklet.db-mark"
        self._lock: int | None = None

    def make(self) -> None:
        """Make the folders, for this user only."""
        for path in (self.root, self.uploads, self.outputs, self.work):
            with refusals(path):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lock(self) -> None:
        """Take the folder for this process until it ends; raises `StoreRefused` if another server has it."""
        with refusals(self.root / "lock"):
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise StoreRefused(
                f"{self.root} is in use by another masklet server: stop that one, or choose another --data-dir"
            ) from None

    def unlock(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def output(self, prediction: str, token: int, name: str) -> Path:
        """Return where a result is."""
        return self.outputs / prediction / str(token) / name

    def outputs_of(self, lease: Lease) -> Path:
        """Return the folder that a claim's results go into, made if need be."""
        folder = self.outputs / lease.prediction / str(lease.token)
        if not folder.exists():
            with refusals(folder):
                _make_below(folder)
            sync_folder(folder.parent)
            sync_folder(self.outputs)
        return folder

    def work_of(self, lease: Lease) -> Path:
        """Return a folder for what a claim needs while it runs, made if need be."""
        folder = self._work_of(lease)
        with refusals(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_work(self, lease: Lease) -> None:
        """Remove what a claim needed while it ran, if it came to need anything."""
        remove_tree(self._work_of(lease))

    def _work_of(self, lease: Lease) -> Path:
        return self.work / f"{lease.prediction}.{lease.token}"

    def discard(self, lease: Lease) -> None:
        """Remove what a claim has made, of which nothing counts."""
        remove_tree(self.outputs / lease.prediction / str(lease.token))
        with suppress(OSError):
            (self.outputs / lease.prediction).rmdir()  # unless another claim has something there

    def discard_others(self, lease: Lease) -> None:
        """Remove what earlier claims of a prediction made, now that this one's results count."""
        with suppress(OSError):
            for folder in (self.outputs / lease.prediction).iterdir():
                if folder.name != str(lease.token):
                    remove_tree(folder)

    def temporary_upload(self) -> Path:
        """Return a name to write an upload to; `Uploads.add` renames it, or the sweep removes it."""
        return self.uploads / f".{secrets.token_hex(8)}{UNFINISHED}"

    def check_room(self, least_bytes: int) -> None:
        """Raise `NoSpace` when the disk has less than this."""
        with refusals(self.root):
            free = shutil.disk_usage(self.root).free
        if free < least_bytes:
            raise NoSpace(
                f"the server's disk has {free / 1e6:,.0f} MB free and keeps {least_bytes / 1e6:,.0f} MB for the work "
                "in hand: try again when there is room"
            )

    def mark(self, number: int) -> None:
        """Note that predictions up to this number were accepted.

        Not flushed: it is for a lost write-ahead log, not for a power cut, where it can only be too low, which is
        harmless.
        """
        with suppress(OSError):
            file = os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, f"{number:020d}\n".encode(), 0)
            finally:
                os.close(file)

    def check_mark(self, highest: int) -> None:
        """Raise `StoreRefused` when more predictions were accepted than the database knows of."""
        try:
            marked = int(self._mark.read_text())
        except (FileNotFoundError, ValueError):
            return
        if marked > highest:
            raise StoreRefused(
                f"{self.database} knows predictions up to number {highest}, but number {marked} was accepted: its "
                f"write-ahead log ({self.database.name}-wal) or the database itself is missing. Put the files back, "
                f"or, to go on without the lost predictions, remove {self._mark.name}"
            )


def make_durable(path: Path) -> Durable:
    """Flush a finished file and its name to the disk, and measure it."""
    digest, size = hashlib.sha256(), 0
    with refusals(path), open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return Durable(path, size, digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    with refusals(folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _make_below(folder: Path) -> None:
    """Make a folder in one that is removed whenever it is empty, as it is until this one is in it."""
    for left in reversed(range(_TRIES)):
        try:
            return folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            if not left:
                raise


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it; what cannot be removed now is left for the next sweep."""
    shutil.rmtree(path, ignore_errors=True)
