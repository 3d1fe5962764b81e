"""How things move through a made clip: smooth random ways, going away and coming back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masklet.train.cutouts import Pose

SPEEDS = (0.002, 0.05)
"""Diagonals of the frame that a thing goes from one frame to the next."""
TURNS = (0.005, 0.15)
"""Radians from one frame to the next."""
BENDS, MIRRORED, SHUTTER_OPEN = 0.4, 0.5, 0.5
"""How often a thing bends, is mirrored, is blurred by its motion."""
BEND_PX = (1.0, 10.0)
MOST_BLUR = 0.08
"""Longest blur, in heights of the frame."""
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stage:
    """What all things of one clip share."""

    frames: int
    size_hw: tuple[int, int]
    camera_xy: Array
    """`[t, 2]`, how far the background has moved since the first frame, pixels."""

    @property
    def diagonal_px(self) -> float:
        return float(np.hypot(*self.size_hw))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw such that each doubling between the limits is as likely as any other."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def wander(rng: np.random.Generator, frames: int, pace: float, axes: int = 1) -> Array:
    """Return a smooth random course that begins at 0 and goes about `pace` a frame, `[t, axes]`."""
    time, shape = np.arange(frames)[:, None], (1, axes)
    velocity = pace * rng.normal(size=shape)
    rhythm, phase = rng.uniform(0.2, 1.2, shape), rng.uniform(0, 2 * np.pi, shape)
    swing = 0.7 * pace * rng.normal(size=shape) / rhythm
    course: Array = velocity * time + swing * (np.sin(rhythm * time + phase) - np.sin(phase))
    return course


def fold(course: Array, low: Array | float, high: Array | float) -> Array:
    """Reflect a course where it would leave `low..high`."""
    span = np.maximum(np.asarray(high) - low, 1e-6)
    turned = np.mod(course - low, 2 * span)
    reflected: Array = low + np.where(turned > span, 2 * span - turned, turned)
    return reflected


def way(rng: np.random.Generator, stage: Stage, start_xy: Array, scale: float) -> tuple[Pose, ...]:
    """Draw how a thing moves, turns, grows, narrows and bends, a pose for each frame."""
    frames, limits = stage.frames, np.array(stage.size_hw[::-1])
    pace = stage.diagonal_px * log_uniform(rng, *SPEEDS)
    middles = start_xy + wander(rng, frames, pace / np.sqrt(2), 2)
    middles = fold(middles, 0.02 * limits, 0.98 * limits) + rng.uniform() * stage.camera_xy
    grown = scale * np.exp(np.clip(wander(rng, frames, 0.03)[:, 0], -0.7, 0.4))
    narrow = np.exp(np.clip(rng.normal(0, 0.1) + wander(rng, frames, 0.03)[:, 0], -0.5, 0.2))
    turns = rng.normal(0, 0.2) + wander(rng, frames, log_uniform(rng, *TURNS))[:, 0]
    bend = log_uniform(rng, *BEND_PX) if rng.random() < BENDS else 0.0
    phases = rng.uniform(0, 2 * np.pi, 2) + wander(rng, frames, 0.3, 2)
    mirror = -1 if rng.random() < MIRRORED else 1
    blurs = _blurs(middles, rng.uniform(0.2, 0.8) * (rng.random() < SHUTTER_OPEN), MOST_BLUR * stage.size_hw[0])
    return tuple(
        Pose(
            xy=_pair(middles[i]),
            scale_xy=(float(mirror * grown[i] * narrow[i]), float(grown[i])),
            turn=float(turns[i]),
            bend_px=bend,
            bend_phase=_pair(phases[i]),
            motion_xy=_pair(blurs[i]),
        )
        for i in range(frames)
    )


def away(rng: np.random.Generator, frames: int) -> Array:
    """Return how far a thing is away on each of at least 3 frames: 0 there, 1 gone.

    It is all there on the first and the last frame, and gone on one or several between them.
    """
    gone = int(rng.integers(1, min(frames - 2, frames // 2 + 1) + 1))
    start = int(rng.integers(1, frames - gone))
    share = np.zeros(frames)
    share[start : start + gone] = 1
    if start > 1:
        share[start - 1] = rng.uniform(0, 0.6)
    if start + gone < frames - 1:
        share[start + gone] = rng.uniform(0, 0.6)
    return share


def leaving(rng: np.random.Generator, stage: Stage, picture: Image.Image, poses: Sequence[Pose]) -> tuple[Pose, ...]:
    """Move a thing out of the frame for a while; half of the time it may return from another side."""
    share = away(rng, stage.frames)
    turning_point = np.flatnonzero(share == 1).mean()
    exits = rng.integers(4, size=2) if rng.random() < 0.5 else np.repeat(rng.integers(4), 2)
    height, width = stage.size_hw
    moved = []
    for i, pose in enumerate(poses):
        (x, y), reach = pose.xy, pose.reach_px(picture) + 2
        outward = ((-x - reach, 0), (width - x + reach, 0), (0, -y - reach), (0, height - y + reach))
        dx, dy = outward[int(exits[int(i > turning_point)])]
        moved.append(replace(pose, xy=(x + share[i] * dx, y + share[i] * dy)))
    return tuple(moved)


def passing(rng: np.random.Generator, frames: int) -> Array:
    """Return where something is that passes over a thing: -1 before it, 0 on it for a while, 1 past it."""
    share = away(rng, frames)
    gone = np.flatnonzero(share == 1)
    course: Array = (1 - share) * np.sign(np.arange(frames) - gone.mean())
    return course


def _blurs(middles: Array, shutter: float, most_px: float) -> Array:
    """Return how far each frame is smeared: a share of the way to its neighbours, and not too far."""
    if len(middles) < 2:
        return np.zeros_like(middles)
    steps: Array = shutter * np.gradient(middles, axis=0)
    steps *= np.minimum(1, most_px / np.maximum(np.hypot(*steps.T), 1e-6))[:, None]
    return steps


def _pair(values: Array) -> tuple[float, float]:
    return float(values[0]), float(values[1])
