"""An engine without a network, for tests: an object is what has the colour it was clicked on. Exact, fast, no torch.

It reads real videos and writes real results, so everything around the model runs as in earnest. An object named
`fault-KIND-FRAME` makes the engine fail in that way when it gets to that frame.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from masklet.errors import BadPrompt
from masklet.export import FrameImages, Manifest, describe_source
from masklet.masks import FrameMasks
from masklet.prompts import ClickTable, Prompt, check_clicks, check_prompts, gather, parse_box, parse_clicks
from masklet.render import RGB, Picture, assign_colours, render
from masklet.request import Request
from masklet.server.engine import Advanced, Finished, Report, Said, not_a_number, publish_manifest
from masklet.video import Frame, Video, VideoWriter, open_video

NEAR = 40
"""A colour is the same if no channel differs by more: a codec changes colours a little."""
SLOW_S = 0.25
VIDEO_NAME = "output_video.mp4"
MANIFEST_NAME = "manifest.json"


class StubEngine:
    """Colour thresholds in place of a model. `load_s` is how long loading one takes; below 0 it fails."""

    def __init__(self, load_s: float = 0.0) -> None:
        self.device = "none"
        self._load_s = load_s

    def load(self, weights: str) -> None:
        """Pretend to."""
        if self._load_s < 0:
            raise BadPrompt(f"the stub was told not to load {weights}")
        time.sleep(self._load_s)

    def segment(self, request: Request, asked: Mapping[str, Any], report: Report, video: Video | None = None) -> None:
        """Do the job, with the files, names and order of `segment_video`."""
        out = Path(request.out)
        with nullcontext(video) if video is not None else open_video(request.input_video) as video:
            prompts = _prompts(request, video, report)
            objects = tuple(dict.fromkeys(prompt.object for prompt in prompts))
            colours = assign_colours(objects)
            watched = _watch(video, _colours_said(video, prompts), report)
            manifest_path = out / MANIFEST_NAME
            source = describe_source(video)
            with Manifest(
                manifest_path, source=source, model=request.model, request=request.asked(), colours=colours
            ) as manifest:
                pictures = _drawn(watched, request, colours)
                if request.output_video:
                    _write_film(out / VIDEO_NAME, pictures, manifest, Fraction(request.video_fps), report)
                    manifest.close(video=VIDEO_NAME)
                else:
                    images = FrameImages(out, output_format=request.output_format, quality=request.output_quality)
                    for frame, masks, picture in pictures:
                        path = images.write(frame.index, picture)
                        manifest.add(masks, file=path.name)
                        report(Finished(path))
        publish_manifest(manifest_path, asked, source=asked.get("input_video"))
        report(Finished(manifest_path, "manifest"))


def _prompts(request: Request, video: Video, report: Report) -> Sequence[Prompt]:
    bounds = {"height": video.height, "width": video.width, "frame_count": video.frame_count}
    boxes, table = [parse_box(text) for text in request.boxes], ClickTable((), ())
    if request.click_coordinates.strip() or not boxes:
        table = parse_clicks(
            request.click_coordinates, request.click_labels, request.click_frames, request.click_object_ids
        )
        check_clicks(table.clicks, **bounds)
    prompts, notes = gather(table.clicks, boxes)
    check_prompts(prompts, **bounds)
    for text in (*table.notes, *notes):
        report(Said(text))
    return prompts


def _colours_said(video: Video, prompts: Sequence[Prompt]) -> Mapping[str, list[tuple[bool, NDArray[np.int16]]]]:
    """Look up the colour under each click, per object."""
    said: dict[str, list[tuple[bool, NDArray[np.int16]]]] = {}
    for prompt in prompts:
        [frame] = video.frames_at([prompt.frame])
        points = [(click.positive, click.x, click.y) for click in prompt.clicks]
        if prompt.box is not None:
            points.append((True, (prompt.box.x0 + prompt.box.x1) / 2, (prompt.box.y0 + prompt.box.y1) / 2))
        for positive, x, y in points:
            said.setdefault(prompt.object, []).append((positive, frame.rgb[int(y), int(x)].astype(np.int16)))
    return said


def _watch(
    video: Video, said: Mapping[str, list[tuple[bool, NDArray[np.int16]]]], report: Report
) -> Iterator[tuple[Frame, FrameMasks]]:
    for frame in video.frames():
        for name in said:
            _fault(name, frame.index)
        masks = np.stack([_mask(frame.rgb, colours) for colours in said.values()])
        sure = np.ones(len(said), np.float32)
        yield frame, FrameMasks(frame.index, frame.seconds, tuple(said), masks, sure, sure)
        report(Advanced(frame.index + 1, video.frame_count))


def _mask(rgb: NDArray[np.uint8], colours: Sequence[tuple[bool, NDArray[np.int16]]]) -> NDArray[np.bool_]:
    mask = np.zeros(rgb.shape[:2], bool)
    for wanted in (True, False):
        for positive, colour in colours:
            if positive is wanted:
                mask[(np.abs(rgb.astype(np.int16) - colour) <= NEAR).all(axis=-1)] = wanted
    return mask


def _drawn(
    watched: Iterator[tuple[Frame, FrameMasks]], request: Request, colours: dict[str, RGB]
) -> Iterator[tuple[Frame, FrameMasks, Picture]]:
    for frame, masks in watched:
        if frame.index % request.output_frame_interval == 0:
            picture = render(
                frame.rgb,
                masks,
                colours=colours,
                mask_type=request.mask_type,
                annotation_type=request.annotation_type,
            )
            yield frame, masks, picture


def _write_film(
    path: Path, pictures: Iterator[tuple[Frame, FrameMasks, Picture]], manifest: Manifest, fps: Fraction, report: Report
) -> None:
    with VideoWriter(path, fps=fps) as film:
        for _, masks, picture in pictures:
            film.write(picture)
            manifest.add(masks)
    report(Finished(path))


def _fault(name: str, frame: int) -> None:
    """Fail if an object's name says so."""
    prefix, _, fault = name.partition("-")
    kind, _, at = fault.partition("-")
    if prefix != "fault":
        return
    if kind == "slow":
        time.sleep(SLOW_S)
    elif at == str(frame):
        _fail(name, kind, frame)


def _fail(name: str, kind: str, frame: int) -> NoReturn:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        os._exit(0)
    if kind == "oom":
        raise MemoryError
    if kind == "nan":
        raise not_a_number(name, frame)
    while kind == "hang":
        time.sleep(1)
    raise RuntimeError(f"the stub was told to fail by {kind!r}")
