"""masklet, acting out the same scenes as the peers through its public session."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import masklet.tracker
from masklet.masks import FrameMasks
from masklet.model.config import sam2_config
from masklet.model.network import Features, Network
from masklet.prompts import Box, Click, Prompt
from masklet.session import Session
from masklet.tracker import Tracker
from masklet.video import open_video

from .answers import Answer, Answers
from .scenes import Action, Remove, Say, Track, Withdraw


def network(size, revision, image_px, weights) -> Network:
    """Build masklet's network with these official weights."""
    built = Network(sam2_config(size, revision, image_px))
    built.load_state_dict(weights, strict=True)
    return built.eval().requires_grad_(False)


def write_pictures(clip: NDArray[np.uint8], folder: Path) -> Path:
    """Write `[t, h, w, 3]` as a folder of PNGs, exact to the pixel."""
    for t, picture in enumerate(clip):
        Image.fromarray(picture).save(folder / f"{t}.png")
    return folder


@dataclass(eq=False)
class Masklet:
    """masklet on one clip. Pictures are seen once, however many scenarios are acted out."""

    network: Network
    folder: Path
    _seen: dict[bytes, Features] = field(default_factory=dict)

    def act(
        self, actions: Sequence[Action], *, rounded: bool = True, official: bool = True, holes: bool = True
    ) -> Answers:
        """Act out a scenario, by the official rules unless told otherwise; `rounded` memories are bfloat16."""
        answers: Answers = {}
        with (
            pytest.MonkeyPatch.context() as patch,
            Session(self.folder, self.network, keep_logits=True, official=official) as session,
        ):
            patch.setattr(masklet.tracker, "MAP_DTYPE", torch.bfloat16 if rounded else torch.float32)
            if not holes:
                patch.setattr(masklet.tracker, "fill_holes", lambda logits: logits)
            see = session.tracker.see
            patch.setattr(session.tracker, "see", lambda rgb: self._see(rgb, see))
            for position, action in enumerate(actions):
                for masks in _do(session, action):
                    for i, name in enumerate(masks.objects):
                        if not isinstance(action, Say) or name == action.object:
                            answers[position, masks.frame, name] = _answer(masks, i)
        return answers

    def stream(self, says: Sequence[Say], *, holes: bool = True) -> Answers:
        """Take the pictures one by one, without knowing how many come; the answers are of position 0."""
        video = open_video(self.folder)
        tracker = Tracker(self.network, height=video.height, width=video.width, frame_count=None)
        answers: Answers = {}
        with pytest.MonkeyPatch.context() as patch:
            if not holes:
                patch.setattr(masklet.tracker, "fill_holes", lambda logits: logits)
            for picture in video.frames():
                features = self._see(picture.rgb, tracker.see)
                for say in says:
                    if say.frame == picture.index:
                        tracker.prompt(features, _prompt(say))
                memories = tracker.step(picture.index, features, tracker.objects)
                for name, memory in zip(tracker.objects, memories, strict=True):
                    logits = torch.from_numpy(tracker.enlarge(memory.low_resolution()))
                    answers[0, picture.index, name] = Answer(logits, memory.score, memory.iou)
        video.close()
        return answers

    def _see(self, rgb, see) -> Features:
        key = rgb.tobytes()
        if key not in self._seen:
            self._seen[key] = see(rgb)
        return self._seen[key]


def _do(session: Session, action: Action) -> list[FrameMasks]:
    if isinstance(action, Track):
        direction = "backward" if action.reverse else "forward"
        return list(session.track(direction, start=action.start, max_frames=action.count))
    if isinstance(action, Remove):
        session.remove(action.object)
        return []
    if isinstance(action, Withdraw):
        session.clear(action.object, action.frame)
        return []
    if action.again:
        [(x, y, label)] = action.clicks
        return [session.add_click(action.object, action.frame, x, y, positive=label == 1)]
    return [session.add(_prompt(action))]


def _prompt(say: Say) -> Prompt:
    clicks = tuple(Click(x, y, label == 1) for x, y, label in say.clicks)
    box = None if say.box is None else Box(*say.box)
    return Prompt(say.object, say.frame, clicks=clicks, box=box, mask=say.mask)


def _answer(masks: FrameMasks, i: int) -> Answer:
    return Answer(torch.from_numpy(masks.logits[i]), float(masks.object_scores[i]), float(masks.ious[i]))
