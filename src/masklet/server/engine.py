"""The seam between the service and what segments: a request and its folder in, files one by one out.

`RealEngine` is `segment_video` with a network that stays loaded. `stub.py` is exact, fast and needs no torch.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from masklet.errors import Problem
from masklet.export import MANIFEST_FORMAT
from masklet.files import atomic_write
from masklet.jobs import Role
from masklet.request import Request
from masklet.server.failures import JobFailure
from masklet.video import Video


@dataclass(frozen=True)
class Said:
    """Something for the prediction's log."""

    text: str


@dataclass(frozen=True)
class Advanced:
    """A frame is done."""

    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    """A file of the result is whole, and nobody writes to it any more."""

    path: Path
    role: Role = "output"


Report = Callable[[Said | Advanced | Finished], None]
"""Hears what happens, between frames. It may raise anything to stop the engine, which lets it through."""


class Engine(Protocol):
    """What a worker holds."""

    device: str
    """Where it computes, for people; known once loaded."""

    def load(self, weights: str) -> None:
        """Make a model ready, so that the first prediction does not wait for it; raises a `Problem`."""

    def segment(self, request: Request, asked: Mapping[str, Any], report: Report, video: Video | None = None) -> None:
        """Do the job: files go into the folder `request.out`, outputs in their order; raises a `Problem`.

        `asked` is the input as its owner sent it, which the manifest repeats in place of the server's own paths.
        `video` is read in place of `request.input_video`, which then is not opened.
        """


class RealEngine:
    """SAM 2. Holds one network; a prediction for another model loads that one in its place."""

    def __init__(self, device: str = "auto", dtype: str = "auto") -> None:
        self.device = device
        self._wanted = {"device": device, "dtype": dtype}
        self._held: tuple[str, Any] | None = None

    def load(self, weights: str) -> None:
        """Load a model unless it is held already."""
        from masklet.weights import load_network

        if self._held is not None and self._held[0] == weights:
            return
        self._held = None  # the old one's memory is needed for the new one
        network = load_network(weights, **self._wanted)
        self._held = (weights, network)
        self.device = str(network.device)

    def segment(self, request: Request, asked: Mapping[str, Any], report: Report, video: Video | None = None) -> None:
        """Run `segment_video` and pass on what it reports."""
        from masklet.segment import Advance, Made, Note, segment_video

        def hear(event: Note | Advance | Made) -> None:
            if isinstance(event, Note):
                report(Said(event.text))
            elif isinstance(event, Advance):
                report(Advanced(event.done, event.total))
            elif event.path.suffix != ".json":
                report(Finished(event.path))

        try:
            self.load(request.model)
            made = segment_video(request, network=self._held[1] if self._held else None, video=video, report=hear)
        except Problem:
            raise
        except Exception as error:
            if _is_out_of_memory(error):
                raise MemoryError from error
            raise
        publish_manifest(made.manifest, asked, source=asked.get("input_video"))
        report(Finished(made.manifest, "manifest"))


def publish_manifest(path: Path, asked: Mapping[str, Any], *, source: object) -> None:
    """Put what the owner asked in place of what the server made of it, and look for numbers that are none.

    Goes line by line (a frame is a line), because the manifest of a long video does not belong in memory.
    """
    with path.open("rb") as old, atomic_write(path) as new:
        head = json.loads(old.readline().rstrip(b",\n") + b"}")
        if head["format"] != MANIFEST_FORMAT:
            raise ValueError(f"{path} is no manifest")
        head["request"] = dict(asked)
        head["source"]["name"] = _name(source)
        new.write(json.dumps(head, ensure_ascii=True).encode()[:-1] + b",\n")
        for line in old:
            if line.startswith(b'{"frame"'):
                _check_finite(json.loads(line.rstrip(b",\n")))
            new.write(line)


def _check_finite(frame: Mapping[str, Any]) -> None:
    for entry in frame["objects"]:
        # Numbers that are not finite are null in a manifest; a tracked object has a code of its mask.
        if entry["rle"] is not None and (entry["score"] is None or entry["iou"] is None):
            raise not_a_number(entry["object"], frame["frame"])


def not_a_number(name: str, frame: int) -> JobFailure:
    """Say that a model computed nonsense."""
    text = f"The model's answer for {name!r} on frame {frame} is not a number: try another model, or --dtype float32."
    return JobFailure("E_MODEL_NONFINITE", text, worn=True)


def _name(source: object) -> str:
    """Return what a video may be called in public: the last part of its address, without what is secret in it."""
    if not isinstance(source, str) or source.startswith("data:"):
        return "video"
    return source.split("?")[0].split("#")[0].rstrip("/").rpartition("/")[2][:100] or "video"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether torch could not get memory: its own error on a GPU, a plain RuntimeError on a processor."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))
    )
