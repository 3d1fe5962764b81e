"""Files that clients uploaded, each its owner's alone."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masklet.jobs.database import Clock, Database
from masklet.jobs.folder import Durable, Folder, make_durable, sync_folder
from masklet.jobs.records import ID_LENGTH, StoredFile, as_json, new_id
from masklet.jobs.rows import as_file


class Uploads:
    """The uploads' table and folder."""

    def __init__(self, database: Database, folder: Folder, clock: Clock) -> None:
        self._database, self._folder, self._clock = database, folder, clock

    def temporary(self) -> Path:
        """Return a path to write an upload to before `add`; what is never added, the sweep removes."""
        return self._folder.temporary_upload()

    def add(
        self,
        owner: str,
        temporary: Path,
        *,
        name: str,
        content_type: str,
        metadata: Mapping[str, Any] | None = None,
        keep_s: float,
    ) -> StoredFile:
        """Keep a finished upload, durably; its file is the store's from then on. `name` is for display only."""
        about = (name, content_type, as_json(metadata or {}))
        return self._keep(new_id(), owner, make_durable(temporary), about, keep_s)

    def add_content(self, owner: str, temporary: Path, *, content_type: str, keep_s: float) -> StoredFile:
        """As `add`, for what came inside a request: the same content again is the same upload, kept longer.

        So a request that is sent twice names the same upload twice, and its idempotency key fits.
        """
        found = make_durable(temporary)
        digest = hashlib.sha256(f"{owner} {found.sha256}".encode()).digest()
        id = base64.b32encode(digest).decode().lower()[:ID_LENGTH]
        return self._keep(id, owner, found, ("data", content_type, "{}"), keep_s)

    def _keep(self, id: str, owner: str, found: Durable, about: tuple[str, str, str], keep_s: float) -> StoredFile:
        self._database.reach("upload.before_rename")
        found.path.replace(self._folder.uploads / id)
        sync_folder(self._folder.uploads)
        self._database.reach("upload.after_rename")
        now = self._clock.wall()
        with self._database.write("upload") as db:
            db.execute(
                "INSERT INTO files (id, owner, name, content_type, size, sha256, metadata, created_at, expires_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)",
                (id, owner, about[0], about[1], found.size, found.sha256, about[2], now, now + keep_s),
            )
            return as_file(self._folder, db.execute("SELECT * FROM files WHERE id = ?", (id,)).fetchone())

    def get(self, id: str, *, owner: str) -> StoredFile | None:
        """Return an upload, or None for one that is unknown, expired or another's."""
        with self._database.read() as db:
            row = db.execute(
                "SELECT * FROM files WHERE id = ? AND owner = ? AND expires_at > ?", (id, owner, self._clock.wall())
            ).fetchone()
            return None if row is None else as_file(self._folder, row)

    def list(self, *, owner: str, limit: int = 100) -> tuple[StoredFile, ...]:
        """Return an owner's newest uploads."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT * FROM files WHERE owner = ? AND expires_at > ? ORDER BY number DESC LIMIT ?",
                (owner, self._clock.wall(), limit),
            )
            return tuple(as_file(self._folder, row) for row in rows)

    def delete(self, id: str, *, owner: str) -> bool:
        """Forget an upload; returns False for one that is unknown or another's.

        The file stays until predictions that need it have ended.
        """
        with self._database.write("upload_delete") as db:
            return bool(
                db.execute(
                    "UPDATE files SET expires_at = 0 WHERE id = ? AND owner = ? AND expires_at > ?",
                    (id, owner, self._clock.wall()),
                ).rowcount
            )
