"""The Cog door: Cog's inputs become a `Request`, its files are given back one by one as they are made.

`cog push` builds it as `cog.yaml` says. Cog reads the signature without running this file, so it is written out by
hand; tests/server/test_cog.py holds it to `masklet.request`. MASKLET_MODEL chooses another model than nano.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path as LocalPath
from queue import Empty, Queue
from shutil import rmtree
from threading import Event, Thread
from typing import Any

from cog import BaseRunner, Input, Path

if find_spec("masklet") is None:  # Cog copies this folder into its image, and installs only what it requires
    sys.path.insert(0, str(LocalPath(__file__).parent / "src"))

from masklet import Cancelled, Request, load_network, segment_video
from masklet.segment import Advance, Made, Note

AHEAD = 8
"""So many finished files wait at most for Cog to take them."""


class Runner(BaseRunner):
    """Holds the network, and segments one video after another."""

    def setup(self) -> None:
        """Load the model."""
        self.model = os.environ.get("MASKLET_MODEL", "nano")
        self.network = load_network(self.model)
        self.kept: LocalPath | None = None

    def run(  # noqa: PLR0913 - Cog wants one argument an input
        self,
        input_video: Path = Input(description="The video."),  # noqa: B008
        click_coordinates: str = Input(description="Clicks as [x,y],[x,y],... in displayed pixels."),
        click_labels: str = Input(
            default="1", description="1 for each click on the object, 0 for one off it; the last repeats."
        ),
        click_frames: str = Input(default="0", description="Frame of each click, from 0; the last repeats."),
        click_object_ids: str = Input(
            default="", description="Name of each click's object; empty: every click is its own object."
        ),
        mask_type: str = Input(
            default="binary",
            choices=["binary", "highlighted", "greenscreen"],
            description="What pictures show: masks, the frame with objects coloured, or on green.",
        ),
        annotation_type: str = Input(
            default="mask", choices=["mask", "box", "both"], description="What 'highlighted' draws."
        ),
        output_video: bool = Input(default=False, description="Write one MP4 instead of pictures."),
        video_fps: int = Input(default=30, ge=1, le=60, description="Frames per second of the MP4."),
        output_format: str = Input(default="webp", choices=["webp", "jpg", "png"], description="Kind of the pictures."),
        output_quality: int = Input(default=80, ge=0, le=100, description="Quality of jpg and webp."),
        output_frame_interval: int = Input(default=1, ge=1, description="Write every Nth frame."),
        direction: str = Input(
            default="both",
            choices=["both", "forward", "backward"],
            description="Which way objects are followed from their prompts.",
        ),
        source_timing: bool = Input(
            default=False, description="Give the MP4 the source's frame times and sound instead of video_fps."
        ),
    ) -> Iterator[Path]:
        """Segment a video."""
        asked = {name: value for name, value in locals().items() if name != "self"}
        # Cog may read a file after it was given, so what one run made stays until the next.
        if self.kept is not None:
            rmtree(self.kept, ignore_errors=True)
        self.kept = LocalPath(tempfile.mkdtemp(prefix="masklet-"))
        request = Request(**(asked | {"input_video": str(input_video)}), model=self.model, out=str(self.kept / "masks"))
        yield from _Work(request, self.network).files()


class _Work:
    """A segmentation in a thread, whose results are taken one by one."""

    def __init__(self, request: Request, network: Any) -> None:
        self._made: Queue[LocalPath | Exception | None] = Queue(AHEAD)
        self._stop = Event()
        self._thread = Thread(target=self._segment, args=(request, network), name="segment")

    def files(self) -> Iterator[Path]:
        """Yield each result when it is finished; stops the work when nobody wants more."""
        self._thread.start()
        try:
            while (item := self._made.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield Path(item)
        finally:
            self._stop.set()
            self._wait()

    def _segment(self, request: Request, network: Any) -> None:
        try:
            segment_video(request, network=network, report=self._hear)
            self._made.put(None)
        except Exception as error:
            self._made.put(error)

    def _hear(self, event: Note | Advance | Made) -> None:
        if isinstance(event, Note):
            sys.stdout.write(f"{event.text}\n")
        elif isinstance(event, Advance):
            part = event.done * 100 // max(1, event.total)
            sys.stdout.write(f"{part:3d}%|{'#' * (part // 10):<10}| {event.done}/{event.total}\n")
        elif event.path.suffix != ".json":
            self._made.put(event.path)
        if self._stop.is_set():
            raise Cancelled("stopped")

    def _wait(self) -> None:
        """Let the thread end, which may want to put one more file."""
        while self._thread.is_alive():
            with suppress(Empty):
                self._made.get(timeout=0.05)
