"""The use case: a video and what was said about it in, masks as files out. Doors call this and decide nothing."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from glob import glob
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from masklet.errors import BadPrompt, BadVideo, Cancelled
from masklet.export import OUTPUT_FORMATS, FrameImages, Manifest, PerObjectMasks, describe_source
from masklet.files import make_folder, refusals
from masklet.masks import FrameMasks, read_mask
from masklet.prompts import (
    ClickTable,
    Prompt,
    check_clicks,
    check_prompts,
    gather,
    parse_box,
    parse_clicks,
    parse_mask,
)
from masklet.render import RGB, Picture, assign_colours, render
from masklet.request import Request
from masklet.video import Frame, Video, VideoWriter, open_video

if TYPE_CHECKING:  # torch takes seconds to import; a wrong click is refused without it
    from masklet.model.network import Network
    from masklet.session import Session

VIDEO_NAME = "output_video.mp4"
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Note:
    """Something the person who asked should know."""

    text: str


@dataclass(frozen=True)
class Advance:
    """A frame is done."""

    done: int
    total: int


@dataclass(frozen=True)
class Made:
    """A file is finished and under its name."""

    path: Path


Report = Callable[[Note | Advance | Made], None]
"""Hears what happens, between frames; may raise `Cancelled` to stop."""


@dataclass(frozen=True)
class Segmented:
    """What a job made."""

    out: Path
    """The folder of results."""
    manifest: Path
    """The file that says everything about them."""
    files: tuple[Path, ...]
    """Pictures in frame order, or the one video."""
    objects: tuple[str, ...]
    """Names, in the order of their first mention."""
    frame_count: int
    """Frames gone through, whether or not each has a picture of its own."""
    model: str
    """As it was asked for."""
    device: str
    """What it ran on."""
    seconds: float
    """From the request to the last file, loading the model included."""


def segment_video(
    request: Request,
    *,
    network: "Network | None" = None,
    video: Video | None = None,
    report: Report = lambda event: None,
) -> Segmented:
    """Do the whole job.

    `network` saves loading `request.model`, `video` opening `request.input_video`; who gives one closes it.

    Raises a `Problem`. Cancelled, it keeps the frames that were finished, and the manifest says so.
    """
    started = time.monotonic()
    if not request.input_video:
        raise BadVideo("input_video is empty: give the path of a video, of a picture or of a folder of them")
    with nullcontext(video) if video is not None else open_video(request.input_video) as video:
        prompts, notes = _prompts(request, video)
        _check_frames(request, video, prompts)
        _check_folder(request, video)
        for text in (*notes, *_without_effect(request)):
            report(Note(text))
        from masklet.session import Session
        from masklet.weights import load_network

        if network is None:
            network = load_network(request.model, device=request.device, dtype=request.dtype)
        with Session(video, network) as session:
            # A correction needs its object to exist, whatever the order in which they were written down.
            for prompt in sorted(prompts, key=lambda p: (p.is_correction, p.frame)):
                session.add(prompt)
            with _new_folder(request, video) as out:
                job = _write(session, request, out, tuple(dict.fromkeys(prompt.object for prompt in prompts)), report)
    return Segmented(
        out=out,
        manifest=out / MANIFEST_NAME,
        files=tuple(job.files),
        objects=tuple(job.colours),
        frame_count=job.seen,
        model=request.model,
        device=str(network.device),
        seconds=time.monotonic() - started,
    )


def _prompts(request: Request, video: Video) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """Read every prompt of a request and check it against the video; returns them with notes for the log."""
    size = {"height": video.height, "width": video.width}
    others = [parse_box(text) for text in request.boxes]
    for text in request.masks:
        name, frame, path = parse_mask(text)
        others.append(Prompt(name, frame, mask=read_mask(path, **size)))
    table = ClickTable((), ())
    if request.click_coordinates.strip():
        table = parse_clicks(
            request.click_coordinates, request.click_labels, request.click_frames, request.click_object_ids
        )
        check_clicks(table.clicks, **size, frame_count=video.frame_count)
    elif not others:
        raise BadPrompt(
            "nothing says where an object is: give click_coordinates (--click-coordinates) such as "
            f"[{video.width // 2},{video.height // 2}], a box (--box) or a mask (--mask). "
            f"{describe_source(video)['name']} is {video.width}x{video.height}, frames 0..{video.frame_count - 1}"
        )
    prompts, notes = gather(table.clicks, others)
    check_prompts(prompts, **size, frame_count=video.frame_count)
    return prompts, (*table.notes, *notes)


def _check_frames(request: Request, video: Video, prompts: Sequence[Prompt]) -> None:
    """Refuse work of which nothing would be written."""
    step, first = request.output_frame_interval, min(prompt.frame for prompt in prompts)
    if request.direction == "forward" and first + -first % step >= video.frame_count:
        raise BadPrompt(
            f"output_frame_interval = {step} leaves nothing to write: forward from frame {first} to "
            f"{video.frame_count - 1} no frame is a multiple of {step}; choose a smaller one, or direction both"
        )


def _without_effect(request: Request) -> Iterator[str]:
    if request.annotation_type != "mask" and request.mask_type != "highlighted":
        yield f"annotation_type {request.annotation_type} has no effect: only mask_type highlighted draws annotations"
    if request.source_timing and not request.output_video:
        yield "source_timing has no effect: only output_video has times"


def _check_folder(request: Request, video: Video) -> None:
    """Refuse a folder in which something would be overwritten: earlier results, the video itself, a person's masks."""
    out, source = request.out, video.path
    if not out:
        return
    if os.path.lexists(os.path.join(out, MANIFEST_NAME)):
        raise BadPrompt(f"{out} already holds results ({MANIFEST_NAME}): choose another folder, or remove it first")
    ours = rf"{re.escape(VIDEO_NAME)}|frame_\d+\.({'|'.join(OUTPUT_FORMATS)})"
    home = source if source.is_dir() else source.parent
    if (source.is_dir() or re.fullmatch(ours, source.name)) and os.path.exists(out) and os.path.samefile(out, home):
        raise BadPrompt(f"{out} holds the video itself ({source}), and results could overwrite it: choose another")
    for _, _, mask in map(parse_mask, request.masks):
        folders = (mask.parent, mask.parent.parent) if request.per_object else (mask.parent,)
        if re.fullmatch(ours, mask.name) and any(os.path.exists(out) and os.path.samefile(out, f) for f in folders):
            raise BadPrompt(f"{out} holds {mask}, which was given, and results could overwrite it: choose another")


@contextmanager
def _new_folder(request: Request, video: Video) -> Iterator[Path]:
    """Make the folder for results, never that of another run; after a failure leave no empty one."""
    source = Path(os.path.abspath(video.path))  # a link keeps its own name
    base = f"{source.name if source.is_dir() else source.stem}_masks"  # a folder's name has no suffix, only dots
    names = iter([request.out]) if request.out else (base if n == 1 else f"{base}_{n}" for n in count(1))
    for out in map(Path, names):
        missing = [folder for folder in (out, *out.parents) if not os.path.lexists(folder)]
        if request.out or _claim(out):
            break
    before = _single_folders(out)
    try:
        make_folder(out)
        yield out
    except BaseException:
        for empty in (*(_single_folders(out) - before), *missing):
            with suppress(OSError):
                empty.rmdir()
        raise


def _single_folders(out: Path) -> set[Path]:
    """Return the folders named as those of single objects; none where nobody may look, or under too long a name."""
    return {out / name for name in glob("[0-9][0-9][0-9]*_*/", root_dir=out)}  # `Path.glob` would raise there


def _claim(folder: Path) -> bool:
    """Make a folder, unless it is there already."""
    with refusals(folder):
        try:
            folder.mkdir()
        except FileExistsError:
            return False
    return True


def _write(session: "Session", request: Request, out: Path, objects: tuple[str, ...], report: Report) -> "_Job":
    """Track, draw and write every frame."""
    colours = assign_colours(objects)
    per_object = PerObjectMasks(out, objects) if request.per_object else None
    with Manifest(
        out / MANIFEST_NAME,
        source=describe_source(session.video),
        model=request.model,
        request=request.asked(),
        colours=colours,
        folders=per_object.folders if per_object else None,
    ) as manifest:
        job = _Job(session, request, out, colours, manifest, per_object, report)
        stopped = job.write_film() if request.output_video else job.write_pictures()
        manifest.close(
            complete=stopped is None,
            message=None if stopped is None else str(stopped),
            video=VIDEO_NAME if request.output_video else None,
        )
    for path in (*(job.files if request.output_video else ()), out / MANIFEST_NAME):
        with suppress(Cancelled):  # too late: all that was to be stopped is done
            report(Made(path))
    if isinstance(stopped, Cancelled):
        raise Cancelled(f"{stopped}: {job.kept} finished frames are kept in {out}") from stopped
    if stopped is not None:
        raise stopped
    return job


@dataclass(eq=False)
class _Job:
    """One run over the video: where each frame's masks go."""

    session: "Session"
    request: Request
    out: Path
    colours: dict[str, RGB]
    manifest: Manifest
    per_object: PerObjectMasks | None
    report: Report
    files: list[Path] = field(default_factory=list)
    seen: int = 0
    """Frames gone through."""
    kept: int = 0
    """Frames written."""
    at_end: bool = False

    def write_pictures(self) -> Cancelled | BadVideo | None:
        """Write a picture for each frame; returns why it ended early, if it did."""
        images = FrameImages(self.out, output_format=self.request.output_format, quality=self.request.output_quality)

        def write(frame: Frame, picture: Picture) -> Path:
            self.files.append(images.write(frame.index, picture))
            return self.files[-1]

        return self._run(write)

    def write_film(self) -> Cancelled | BadVideo | None:
        """Write all frames into one MP4, which appears when it is whole; returns why it ended early, if it did."""
        video, own_timing = self.session.video, self.request.source_timing
        with VideoWriter(
            self.out / VIDEO_NAME,
            fps=None if own_timing else Fraction(self.request.video_fps),
            source=video if own_timing else None,
            audio=own_timing and video.has_audio,
        ) as film:
            stopped = self._run(lambda frame, picture: film.write(picture, pts=frame.pts if own_timing else None))
        self.files.append(self.out / VIDEO_NAME)
        return stopped

    def _run(self, write: Callable[[Frame, Picture], Path | None]) -> Cancelled | BadVideo | None:
        """Give every frame that was asked for to `write`; stop between two frames if told to, or at damage."""
        try:
            for frame, masks in self.session.watch(self.request.direction, progress=self._advance):
                if frame.index % self.request.output_frame_interval == 0:
                    self._keep(frame, masks, write)
                self.seen += 1
        except Cancelled as stop:
            if not self.kept:
                raise Cancelled(f"{stop}: no frame was finished, nothing is kept") from stop
            return None if self.at_end else stop
        except BadVideo as damage:
            if not self.kept:
                raise
            return damage
        return None

    def _keep(self, frame: Frame, masks: FrameMasks, write: Callable[[Frame, Picture], Path | None]) -> None:
        """Write all there is of one frame, and report its picture when it is in the manifest too."""
        request = self.request
        picture = render(
            frame.rgb,
            masks,
            colours=self.colours,
            mask_type=request.mask_type,
            annotation_type=request.annotation_type,
        )
        try:
            if self.per_object is not None:
                self.per_object.write(masks)
            file = write(frame, picture)
            self.manifest.add(masks, file=None if file is None else file.name)
            self.kept += 1
        except BaseException:
            self._forget(frame.index)
            raise
        if file is not None:
            self.report(Made(file))

    def _forget(self, index: int) -> None:
        """Take back the pictures of a frame that was not finished: the manifest does not know them."""
        singles = [] if self.per_object is None else self.per_object.folders.values()
        for path in (
            self.out / f"frame_{index:05d}.{self.request.output_format}",
            *(self.out / folder / f"frame_{index:05d}.png" for folder in singles),
        ):
            with suppress(OSError):
                path.unlink()

    def _advance(self, done: int, total: int) -> None:
        self.at_end = done == total
        self.report(Advance(done, total))
