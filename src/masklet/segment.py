"""The use case: a video and what was said about it in, masks as files out. Doors call this and decide nothing."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from masklet.errors import BadPrompt, Cancelled
from masklet.export import FrameImages, Manifest, PerObjectMasks, describe_source
from masklet.masks import read_mask
from masklet.model.network import Network
from masklet.prompts import ClickTable, Prompt, check_prompts, gather, parse_box, parse_clicks, parse_mask
from masklet.render import RGB, Picture, assign_colours, render
from masklet.request import Request
from masklet.session import Session
from masklet.video import Frame, Video, VideoWriter, open_video
from masklet.weights import load_network

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
    manifest: Path
    files: tuple[Path, ...]
    """Pictures in frame order, or the one video."""
    objects: tuple[str, ...]
    frame_count: int
    """Frames written."""
    model: str
    device: str
    seconds: float


def segment_video(
    request: Request, *, network: Network | None = None, report: Report = lambda event: None
) -> Segmented:
    """Do the whole job. `network` saves loading one; otherwise `request.model` is loaded.

    Raises a `Problem`. Cancelled, it keeps the frames that were finished, and the manifest says so.
    """
    started = time.monotonic()
    with open_video(request.input_video) as video:
        prompts = _prompts(request, video, report)
        out = _folder(request, video)
        if network is None:
            network = load_network(request.model, device=request.device, dtype=request.dtype)
        objects = tuple(dict.fromkeys(prompt.object for prompt in prompts))
        with Session(video, network) as session:
            # A correction needs its object to exist, whatever the order in which they were written down.
            for prompt in sorted(prompts, key=lambda p: (p.is_correction, p.frame)):
                session.add(prompt)
            files, frame_count = _write(session, request, out, objects, report)
    return Segmented(
        out=out,
        manifest=out / MANIFEST_NAME,
        files=files,
        objects=objects,
        frame_count=frame_count,
        model=request.model,
        device=str(network.device),
        seconds=time.monotonic() - started,
    )


def _prompts(request: Request, video: Video, report: Report) -> tuple[Prompt, ...]:
    """Read every prompt of a request and check it against the video."""
    others = [parse_box(text) for text in request.boxes]
    for text in request.masks:
        name, frame, path = parse_mask(text)
        others.append(Prompt(name, frame, mask=read_mask(path, height=video.height, width=video.width)))
    table = ClickTable((), ())
    if request.click_coordinates.strip() or not others:
        table = parse_clicks(
            request.click_coordinates, request.click_labels, request.click_frames, request.click_object_ids
        )
    prompts, notes = gather(table.clicks, others)
    check_prompts(prompts, height=video.height, width=video.width, frame_count=video.frame_count)
    for text in (*table.notes, *notes):
        report(Note(text))
    return prompts


def _folder(request: Request, video: Video) -> Path:
    """Choose where results go: never among the results of another run."""
    if request.out:
        out = Path(request.out)
        if (out / MANIFEST_NAME).exists():
            raise BadPrompt(f"{out} already holds results ({MANIFEST_NAME}): choose another folder, or remove it first")
        return out
    base = Path(f"{Path(video.path).resolve().stem}_masks")
    number, out = 1, base
    while out.exists():
        number += 1
        out = base.with_name(f"{base.name}_{number}")
    return out


def _write(
    session: Session, request: Request, out: Path, objects: tuple[str, ...], report: Report
) -> tuple[tuple[Path, ...], int]:
    """Track, draw and write every frame; after a failure leave no empty folders."""
    existed = out.exists()
    try:
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
            job = _Job(session, request, colours, manifest, per_object, report)
            files, stopped = job.write_film(out) if request.output_video else job.write_pictures(out)
            manifest.close(
                complete=stopped is None,
                message=None if stopped is None else str(stopped),
                video=VIDEO_NAME if request.output_video else None,
            )
    except BaseException:
        if not existed:
            _remove_empty(out)
        raise
    report(Made(out / MANIFEST_NAME))
    if stopped is not None:
        raise Cancelled(f"{stopped}: {job.count} finished frames are kept in {out}") from stopped
    return tuple(files), job.count


@dataclass(eq=False)
class _Job:
    """One run over the video: where each frame's masks go."""

    session: Session
    request: Request
    colours: dict[str, RGB]
    manifest: Manifest
    per_object: PerObjectMasks | None
    report: Report
    count: int = 0

    def write_pictures(self, out: Path) -> tuple[list[Path], Cancelled | None]:
        """Write a picture for each frame; returns why it ended early, if it did."""
        images = FrameImages(out, output_format=self.request.output_format, quality=self.request.output_quality)
        files: list[Path] = []

        def write(frame: Frame, picture: Picture) -> str:
            files.append(images.write(frame.index, picture))
            self.report(Made(files[-1]))
            return files[-1].name

        return files, self._run(write)

    def write_film(self, out: Path) -> tuple[list[Path], Cancelled | None]:
        """Write all frames into one MP4, which appears when it is whole; returns why it ended early, if it did."""
        video, path = self.session.video, out / VIDEO_NAME
        own_timing = self.request.source_timing
        with VideoWriter(
            path,
            fps=None if own_timing else Fraction(self.request.video_fps),
            source=video if own_timing else None,
            audio=own_timing and video.has_audio,
        ) as film:

            def write(frame: Frame, picture: Picture) -> None:
                film.write(picture, pts=frame.pts if own_timing else None)

            stopped = self._run(write)
        self.report(Made(path))
        return [path], stopped

    def _run(self, write: Callable[[Frame, Picture], str | None]) -> Cancelled | None:
        """Give every frame that was asked for to `write`; stop between two frames if told to."""
        request = self.request
        try:
            for frame, masks in self.session.watch(request.direction, progress=self._advance):
                if frame.index % request.output_frame_interval:
                    continue
                picture = render(
                    frame.rgb,
                    masks,
                    colours=self.colours,
                    mask_type=request.mask_type,
                    annotation_type=request.annotation_type,
                )
                file = write(frame, picture)
                if self.per_object is not None:
                    self.per_object.write(masks)
                self.manifest.add(masks, file=file)
                self.count += 1
        except Cancelled as stop:
            if not self.count:
                raise
            return stop
        return None

    def _advance(self, done: int, total: int) -> None:
        self.report(Advance(done, total))


def _remove_empty(folder: Path) -> None:
    for inner in (*folder.glob("*/"), folder):
        with suppress(OSError):
            inner.rmdir()
