"""A video and what a person says about it: prompts in any order, on any frame; the masks of every frame.

A prompt is answered at once. `track` then does what is missing and nothing else: a correction makes stale only its own
object's frames between the prompted frames around it, and those are tracked again from the correction outward.
"""

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from masklet.choices import Direction
from masklet.errors import BadPrompt
from masklet.masks import FrameMasks
from masklet.memory import Memory
from masklet.model.network import Features, Network
from masklet.prompts import Box, Click, Prompt, check_first, check_prompts
from masklet.results import Answer, Results
from masklet.tracker import Tracker
from masklet.video import Frame, Video, open_video
from masklet.weights import load_network

Progress = Callable[[int, int], None]
"""Called after each frame with the frames done and the frames in all; may raise `Cancelled`."""


@dataclass(frozen=True)
class _Span:
    """Frames that one object is to be tracked through."""

    object: str
    frames: range
    reverse: bool


class Session:
    """Interactive segmentation of one video; use it as a context manager, or `close` it.

    `video` is a file, a folder of pictures or one picture; `model` a name, a path, a hub id or a loaded network.
    With `keep_logits` all masks come with their logits (0.25 MB of temporary disk an object and frame). `official`
    keeps every rule of Meta's predictor, lost corrections included; there one call tracks in one direction.
    """

    def __init__(
        self,
        video: str | Path | Video,
        model: str | Path | Network = "nano",
        *,
        keep_logits: bool = False,
        official: bool = False,
    ) -> None:
        self.video = video if isinstance(video, Video) else open_video(video)
        size = {"height": self.video.height, "width": self.video.width}
        self.network = model if isinstance(model, Network) else load_network(model)
        self.tracker = Tracker(self.network, **size, frame_count=self.video.frame_count, official=official)
        self._results = Results(**size, exact=keep_logits)
        self._keep_logits = keep_logits
        self._official = official
        self._said: dict[tuple[str, int], Prompt] = {}
        self._ranks: dict[tuple[str, int], int] = {}
        self._followed: set[tuple[str, int]] = set()
        """Prompts from which a pass has gone out: to say one of them anew is to correct it."""
        self._heard = 0
        """How often something was said; a pass under way then looks again what is to be done."""
        self._seen: tuple[int, Features] | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        """Names in the order of their first prompt."""
        return self.tracker.objects

    def add_click(self, name: str, frame: int, x: float, y: float, *, positive: bool = True) -> FrameMasks:
        """Add a click to those on the frame, in displayed pixels, and return the frame's masks."""
        before = self._said.get((name, frame), Prompt(name, frame))
        clicks = (*before.clicks, Click(x, y, positive))
        return self.add(Prompt(name, frame, clicks=clicks, box=before.box))

    def add_box(self, name: str, frame: int, x0: float, y0: float, x1: float, y1: float) -> FrameMasks:
        """Put a box around an object, in displayed pixels; it takes the place of earlier prompts on the frame."""
        return self.add(Prompt(name, frame, box=Box(x0, y0, x1, y1)))

    def add_mask(self, name: str, frame: int, mask: NDArray[np.bool_]) -> FrameMasks:
        """Give an object's mask `[h, w]`, source size; it takes the place of earlier prompts on the frame."""
        return self.add(Prompt(name, frame, mask=mask))

    def add(self, prompt: Prompt) -> FrameMasks:
        """Take everything said about an object on a frame at once, in place of what was said before."""
        prompt = replace(prompt, frame=index(prompt.frame))  # numpy's integers are other keys for the database
        name, frame = prompt.object, prompt.frame
        check_prompts([prompt], height=self.video.height, width=self.video.width, frame_count=self.video.frame_count)
        # Meta's predictor takes an empty mask for an object that is absent, and looks for it no more.
        if name not in self.objects and not (self._official and prompt.mask is not None):
            check_first(prompt)
        known = self._results.get(name, frame)
        tracked = None if known is None else known.tracked
        memory = self.tracker.prompt(
            self._see(frame), prompt, reverse=tracked, before=None if known is None else known.logits
        )
        self._said[name, frame] = prompt
        self._heard += 1
        if not self._official:
            self._forget_around(name, frame)
        if memory is not None:
            corrects = self._results.was_shown(name, frame) or (name, frame) in self._followed
            leads = corrects and (prompt.box is not None or prompt.mask is not None or not self._drawn(name))
            self._ranks[name, frame] = 1 + max(self._ranks.values(), default=0) if leads else 0
            self._keep(frame, {name: memory}, tracked)
        return self.preview(frame)

    def clear(self, name: str, frame: int) -> FrameMasks:
        """Take back what was said about an object on a frame; an object without prompts is removed."""
        frame = index(frame)
        if self._said.pop((name, frame), None) is None:
            raise BadPrompt(f"object {name!r} has no prompt on frame {frame}")
        self._heard += 1
        self._ranks.pop((name, frame), None)
        self._followed.discard((name, frame))
        if not self._official:
            self._forget_around(name, frame)
        elif frame in self.tracker.conditioning(name):
            self._results.drop(name, range(frame, frame + 1))
        self.tracker.withdraw(name, frame)
        if not any(said == name for said, _ in self._said):
            self.remove(name)
        return self.preview(frame)

    def remove(self, name: str) -> None:
        """Forget an object; the others keep their masks."""
        if name not in self.objects:
            raise BadPrompt(f"there is no object {name!r}: choose one of {', '.join(self.objects) or 'none yet'}")
        self._heard += 1
        self.tracker.remove(name)
        self._results.forget(name)
        self._said = {key: prompt for key, prompt in self._said.items() if key[0] != name}
        self._ranks = {key: rank for key, rank in self._ranks.items() if key[0] != name}
        self._followed = {key for key in self._followed if key[0] != name}

    def preview(self, frame: int) -> FrameMasks:
        """Return what is known of a frame now: answers to its prompts, and what was tracked."""
        frame = index(frame)
        return self._masks(frame, self.video.seconds_at(frame), {})

    def track(
        self,
        direction: Direction = "both",
        *,
        start: int | None = None,
        max_frames: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[FrameMasks]:
        """Yield the masks of every frame, ascending; each lists the objects that are known there.

        `forward` begins at `start` (default: the first prompted frame), `backward` at the last prompted one, `both`
        covers the video; `max_frames` is their number. Whatever was done when the caller stops is kept.
        """
        frames = self._window(direction, start, max_frames)
        return (masks for _, masks in self._run(frames, direction, progress))

    def watch(
        self, direction: Direction = "both", *, progress: Progress | None = None
    ) -> Iterator[tuple[Frame, FrameMasks]]:
        """Do as `track`, and yield each frame's picture with its masks."""
        return self._run(self._window(direction, None, None), direction, progress)

    def close(self) -> None:
        """Close the video and forget everything."""
        self._results.close()
        self.video.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _window(self, direction: Direction, start: int | None, max_frames: int | None) -> range:
        """Return the frames to answer."""
        count = self.video.frame_count
        if not self._said:
            raise BadPrompt("nothing to track: say first where an object is, for instance with add_click")
        if start is not None and not 0 <= start < count:
            raise BadPrompt(f"start = {start}, but the video has {count} frames (0..{count - 1})")
        if max_frames is not None and max_frames < 1:
            raise BadPrompt(f"max_frames = {max_frames}: ask for at least 1")
        if self._official and direction == "both":
            raise BadPrompt("by the official rules a call tracks in one direction: choose forward or backward")
        prompted = [frame for _, frame in self._said]
        if self._official:
            prompted = [frame for name in self.objects for frame in self.tracker.conditioning(name)]
        if direction == "backward":
            # Officially a backward pass also begins at the first prompted frame, and none begins at frame 0.
            latest = min(prompted) if self._official else max(prompted)
            stop = (latest if start is None else start) + 1
            if self._official and stop == 1:
                return range(0)
            return range(0 if max_frames is None else max(0, stop - max_frames), stop)
        begin = start if start is not None else 0 if direction == "both" else min(prompted)
        return range(begin, count if max_frames is None else min(count, begin + max_frames))

    def _run(
        self, frames: range, direction: Direction, progress: Progress | None
    ) -> Iterator[tuple[Frame, FrameMasks]]:
        """Go backward first, where that is needed, and keep the answers; then forward once, and yield everything.

        What is said between two frames holds from the next one on.
        """
        forth: list[_Span] = []
        heard, done, total = -1, 0, 0
        for frame in self.video.frames(frames.start, frames.stop):
            if heard != self._heard and (heard < 0 or not self._official):
                rest = range(frame.index, frames.stop)
                back, forth = self._plan(rest, direction)
                behind = _hull(back)
                before = range(min([frame.index, *(span.frames.start for span in forth)]), frame.index)
                heard, total = self._heard, done + len(behind) + len(before) + len(rest)
                for _ in chain(self._go(back, behind, reverse=True), self._go(forth, before, reverse=False)):
                    done += 1
                    if progress is not None:
                        progress(done, total)
            masks = self._masks(frame.index, frame.seconds, self._step(frame, forth, reverse=False))
            yield frame, masks
            done += 1
            if progress is not None:
                progress(done, total)

    def _go(self, spans: list[_Span], frames: range, *, reverse: bool) -> Iterator[None]:
        """Track through frames that are not shown now, and yield after each."""
        if not frames:
            return
        backward, forward = self.video.frames_backward, self.video.frames
        for frame in backward(frames[-1], frames[0]) if reverse else forward(frames.start, frames.stop):
            self._step(frame, spans, reverse=reverse)
            yield

    def _plan(self, frames: range, direction: Direction) -> tuple[list[_Span], list[_Span]]:
        """Return what objects are to be tracked through backward, and what forward."""
        spans = [span for name in self.objects for span in self._spans(name, frames, direction)]
        self._followed.update((name, frame) for name in self.objects for frame in self.tracker.conditioning(name))
        return [span for span in spans if span.reverse], [span for span in spans if not span.reverse]

    def _spans(self, name: str, frames: range, direction: Direction) -> Iterator[_Span]:
        """Yield what an object lacks, in the order in which that is tracked."""
        if self._official:
            yield _Span(name, frames, direction == "backward")
            return
        anchors = self.tracker.conditioning(name)
        if not anchors:
            return  # only a correction that waits
        if direction == "forward":
            frames = range(max(frames.start, anchors[0]), frames.stop)
        elif direction == "backward":
            frames = range(frames.start, min(frames.stop, anchors[-1] + 1))
        gaps = [(gap, self._leads_backward(name, anchors, gap, direction)) for gap in self._results.gaps(name, frames)]
        passes = [gap for gap in reversed(gaps) if gap[1]] + [gap for gap in gaps if not gap[1]]
        for i, (gap, reverse) in enumerate(passes):
            goes_on = i == 0 and self.tracker.bank(name).stands_behind(gap, reverse=reverse)
            yield _Span(name, gap if goes_on else self._from_anchor(name, anchors, gap, reverse), reverse)

    def _drawn(self, name: str) -> bool:
        """Whether a person gave a mask of the object: clicks amend what follows from it, and lead nowhere."""
        return any(prompt.mask is not None for (said, _), prompt in self._said.items() if said == name)

    def _leads_backward(self, name: str, anchors: list[int], gap: range, direction: Direction) -> bool:
        """Between two prompts the later correction leads; without one, the direction."""
        i = bisect(anchors, gap.start)
        if i in (0, len(anchors)):
            return i == 0
        before, after = (self._ranks.get((name, anchor), 0) for anchor in anchors[i - 1 : i + 1])
        return after > before or (after == before and direction == "backward")

    def _from_anchor(self, name: str, anchors: list[int], gap: range, reverse: bool) -> range:
        """Begin where the pass through a gap comes from, be that known: what it remembered there is gone.

        Up to the prompted frame, or up to other frames that are missing, if they are tracked before.
        """
        step = 1 if reverse else -1
        behind = (gap[-1] if reverse else gap[0]) + step
        while 0 <= behind < self.video.frame_count and behind not in anchors and self._results.get(name, behind):
            behind += step
        return range(gap.start, behind) if reverse else range(behind + 1, gap.stop)

    def _step(self, frame: Frame, spans: list[_Span], *, reverse: bool) -> dict[str, Answer]:
        names = [s.object for s in spans if frame.index in s.frames and s.object in self.objects]
        if not names:
            return {}
        self._seen = (frame.index, self.tracker.see(frame.rgb))
        memories = self.tracker.step(frame.index, self._seen[1], names, reverse=reverse)
        return self._keep(frame.index, dict(zip(names, memories, strict=True)), reverse)

    def _see(self, frame: int) -> Features:
        if self._seen is None or self._seen[0] != frame:
            [picture] = self.video.frames_at([frame])
            self._seen = (frame, self.tracker.see(picture.rgb))
        return self._seen[1]

    def _keep(self, frame: int, memories: Mapping[str, Memory], reverse: bool | None) -> dict[str, Answer]:
        """Store what the tracker answered."""
        masks = self.tracker.masks(frame, memories)
        answers = {
            name: Answer(mask, memory.score, memory.iou, memory.low_resolution(), reverse)
            for (name, memory), mask in zip(memories.items(), masks, strict=True)
        }
        for name, answer in answers.items():
            self._results.put(name, frame, answer)
        return answers

    def _forget_around(self, name: str, frame: int) -> None:
        """Drop an object's answers between the prompted frames around this one."""
        others = [other for other in self.tracker.conditioning(name) if other != frame]
        i = bisect(others, frame)
        start = others[i - 1] + 1 if i else 0
        stop = others[i] if i < len(others) else self.video.frame_count
        self._results.drop(name, range(start, stop))
        self.tracker.bank(name).forget(range(start, stop))

    def _masks(self, frame: int, seconds: float, fresh: Mapping[str, Answer]) -> FrameMasks:
        """Join fresh answers with stored ones, in the objects' order."""
        known = {name: fresh.get(name) or self._results.get(name, frame) for name in self.objects}
        answers = {name: answer for name, answer in known.items() if answer is not None}
        empty = np.zeros((0, self.video.height, self.video.width))
        logits = [self.tracker.enlarge(a.logits) for a in answers.values()] if self._keep_logits else []
        return FrameMasks(
            frame=frame,
            seconds=seconds,
            objects=tuple(answers),
            masks=np.stack([a.mask for a in answers.values()]) if answers else empty.astype(bool),
            object_scores=np.array([a.score for a in answers.values()], np.float32),
            ious=np.array([a.iou for a in answers.values()], np.float32),
            logits=None if not self._keep_logits else np.stack(logits) if logits else empty.astype(np.float32),
        )


def _hull(spans: list[_Span]) -> range:
    """Return the frames from the first of any span to the last; without spans none."""
    if not spans:
        return range(0)
    return range(min(span.frames.start for span in spans), max(span.frames.stop for span in spans))
