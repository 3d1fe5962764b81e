"""One claim from its input to its end: what the engine makes is published file by file, under the lease.

Every exit is covered: it succeeds, it fails with a code, its lease is lost (cancelled, timed out, taken over) and it
publishes nothing more, or the worker is told to stop and the prediction goes back to the queue.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, NoReturn

import structlog

from masklet.errors import NoSpace, Problem
from masklet.jobs import Claim, JobStore, LeaseLost, Outcome, StoreBusy, make_durable
from masklet.request import Request, options
from masklet.server.duty import Patience
from masklet.server.engine import Advanced, Engine, Finished, Said
from masklet.server.failures import failure_of
from masklet.server.prepare import DOWNLOAD, Prepare

LOG_EVERY_S = 0.5
CHECK_EVERY_S = 0.1
"""Between two looks at the lease where no file is published under it."""
RETRY_S = 0.5
CONTENT_TYPES = {
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".mp4": "video/mp4",
    ".json": "application/json",
}
_BAR = 10
SILENT = "source_timing gives the film the video's frame times, but no sound: the server decodes pictures only"

log = structlog.get_logger()


class Stopped(Exception):
    """The worker is to end, and this prediction will not be done in time."""


class Attempt:
    """A claim being worked on. `time_left` says how many seconds remain, None while nobody wants the worker to stop."""

    def __init__(
        self,
        claim: Claim,
        store: JobStore,
        *,
        patience: "Patience",
        time_left: Callable[[], float | None],
        reach: Callable[[str], None],
    ) -> None:
        self._claim, self._lease, self._store = claim, claim.lease, store
        self._time_left, self._reach = time_left, reach
        self._heart = _Heart(store, claim, patience)
        self._preparing = True
        self._count = 0
        self._log, self._logged_at, self._checked_at = "", 0.0, 0.0
        self._started = time.monotonic()

    def run(self, engine: Engine, prepare: Prepare) -> bool:
        """Work until the end; returns whether the process is in order for the next one."""
        try:
            with self._heart:
                return self._run(engine, prepare)
        except LeaseLost as lost:
            log.info("lease lost", prediction=lost.prediction, why=lost.why)
            with suppress(Problem):  # the sweep finds what is left
                self._store.queue.discard(self._lease)
            return True
        finally:
            self._store.folder.clear_work(self._lease)

    def _run(self, engine: Engine, prepare: Prepare) -> bool:
        names = {str(self._store.folder.root): "a file"}
        try:
            work = self._store.folder.work_of(self._lease)
            names[str(work / DOWNLOAD)] = "the video"
            names |= {str(upload): "the video" for upload in self._claim.uploads.values()}
            with prepare(self._claim, work, self._check) as video:
                self._preparing = False
                self._reach("worker.prepared")
                self._started = time.monotonic()
                if self._claim.prediction.input.get("source_timing") is True:
                    self._hear(Said(SILENT))
                engine.segment(self._request(video.path), self._claim.prediction.input, self._hear, video)
            self._say_log()
        except LeaseLost:
            raise
        except Stopped:
            self._persist(lambda: self._store.queue.release(self._lease))
            return True
        except Exception as error:
            failure = failure_of(error, names)
            log.warning("prediction failed", prediction=self._lease.prediction, code=failure.code, exc_info=error)
            self._store.folder.clear_work(self._lease)  # on a full disk this may be the room for the last row
            self._finish(Outcome("failed", str(failure), failure.code, self._metrics()), None)
            return not failure.worn
        self._reach("worker.before_finish")
        self._finish(Outcome("succeeded", metrics=self._metrics()), self._count)
        self._store.folder.discard_others(self._lease)
        return True

    def _request(self, video: Path) -> Request:
        """Make the request: what the owner said, with the server's own paths."""
        own = {option.name for option in options()} - {"masks", "model", "device", "dtype", "out", "per_object"}
        given = self._claim.prediction.input
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in own
        }
        return Request(
            **(fields | {"input_video": str(video)}),
            model=self._claim.prediction.weights,
            out=str(self._store.folder.outputs_of(self._lease)),
        )

    def _hear(self, event: Said | Advanced | Finished) -> None:
        """Take what the engine reports; raises what stops it."""
        self._check()
        if isinstance(event, Said):
            self._log += f"{event.text}\n"
        elif isinstance(event, Finished):
            self._publish(event)
        else:
            self._stop_if_late(event)
            self._log += _progress_line(event)
            if time.monotonic() - self._logged_at >= LOG_EVERY_S:
                self._say_log()

    def _publish(self, file: Finished) -> None:
        self._reach("output.before_sync")
        durable = make_durable(file.path)
        self._reach("output.after_sync")
        kind = CONTENT_TYPES[file.path.suffix]
        position = self._count if file.role == "output" else 0
        self._persist(
            lambda: self._store.queue.add_output(
                self._lease, durable, position=position, content_type=kind, role=file.role
            )
        )
        self._count += file.role == "output"

    def _say_log(self) -> None:
        if self._log:
            self._persist(lambda: self._store.queue.add_logs(self._lease, self._log))
        self._log, self._logged_at = "", time.monotonic()

    def _check(self) -> None:
        """Raise `LeaseLost` when the prediction is no longer this worker's, `Stopped` when there is no time at all."""
        self._heart.check()
        now = self._heart.moved_at = time.monotonic()
        if now - self._checked_at >= CHECK_EVERY_S:
            self._checked_at = now
            self._persist(lambda: self._store.queue.holds(self._lease))
        left = self._time_left()
        if left is not None and (left <= 0 or self._preparing):
            raise Stopped

    def _stop_if_late(self, progress: Advanced) -> None:
        left = self._time_left()
        if left is None:
            return
        spent = time.monotonic() - self._started
        if spent / max(1, progress.done) * (progress.total - progress.done) > left:
            raise Stopped

    def _finish(self, outcome: Outcome, outputs: int | None) -> None:
        self._persist(lambda: self._store.queue.finish(self._lease, outcome, outputs=outputs), until_room=True)

    def _persist(self, write: Callable[[], object], *, until_room: bool = False) -> None:
        """Write to the store, however long it is held elsewhere; `until_room`: and however full the disk is."""
        while True:
            try:
                write()
                return
            except StoreBusy:
                log.warning("database locked", prediction=self._lease.prediction)
            except NoSpace:
                if not until_room:
                    raise
                log.warning("disk full", prediction=self._lease.prediction)
            self._heart.check()
            time.sleep(RETRY_S)

    def _metrics(self) -> dict[str, float]:
        return {"predict_time": round(time.monotonic() - self._started, 6)}


class _Heart:
    """Keeps the lease while the engine works, from a thread of its own."""

    def __init__(self, store: JobStore, claim: Claim, patience: Patience) -> None:
        self._store, self._lease, self._patience = store, claim.lease, patience
        self._lost: LeaseLost | None = None
        self._end = Event()
        self._thread = Thread(target=self._beat, name="heartbeat", daemon=True)
        self.moved_at = time.monotonic()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def check(self) -> None:
        """Raise `LeaseLost` if it is."""
        if self._lost is not None:
            raise self._lost

    def _beat(self) -> None:
        lease_s = self._patience.lease_s
        kept_until = time.monotonic() + lease_s
        while not self._end.wait(min(lease_s, self._patience.stall_s) / 4):
            try:
                if time.monotonic() - self.moved_at > self._patience.stall_s:
                    self._give_up()
                self._store.queue.heartbeat(self._lease, lease_s=lease_s)
                kept_until = time.monotonic() + lease_s
            except LeaseLost as lost:
                self._lost = lost
                return
            except Problem as problem:
                log.warning("no heartbeat", prediction=self._lease.prediction, why=str(problem))
                if time.monotonic() > kept_until:
                    self._lost = LeaseLost(self._lease.prediction, "taken over")
                    return

    def _give_up(self) -> NoReturn:
        """End the prediction, and this process with it: an engine that hangs hears nothing."""
        text = f"The model made no progress for {self._patience.stall_s:g} s: try a smaller video or a faster model."
        self._store.queue.finish(self._lease, Outcome("failed", text, "E_MODEL_STALLED"))
        log.error("engine stalled", prediction=self._lease.prediction)
        os.killpg(0, signal.SIGKILL)
        raise SystemExit  # never reached


def _progress_line(progress: Advanced) -> str:
    """Write progress as tqdm does, which is what Replicate's clients look for in the logs."""
    part = progress.done / max(1, progress.total)
    bar = "#" * int(part * _BAR)
    return f"{int(part * 100):3d}%|{bar:<{_BAR}}| {progress.done}/{progress.total}\n"
