"""Small clips whose true masks are known, and the networks that tests of the upper floors share."""

from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import torch
from PIL import Image

from masklet.masks import box_of
from masklet.model.config import NANO, sam2_config
from masklet.model.network import Network
from masklet.video import VideoWriter
from masklet.weights import load_network

HEIGHT, WIDTH, FRAMES = 96, 128, 8


@cache
def nano(image_px=224):
    """Return the embedded model for small pictures: 224 pixels, not 768, are twelve times faster, enough for discs."""
    network = Network(replace(NANO, image_px=image_px))
    network.load_state_dict(load_network("nano", device="cpu").state_dict())
    return network.eval().requires_grad_(False)


@cache
def tiny():
    """Return SAM 2.1 tiny with random weights on 64 pixels: it has memory, and its masks mean nothing."""
    torch.manual_seed(3)
    return Network(sam2_config("tiny", image_px=64)).eval().requires_grad_(False)


def disc_at(frame):
    """Return the disc's centre x, y; it goes right."""
    return 40 + 2 * frame, 30


def ball_at(frame):
    """Return the ball's centre x, y; it goes left."""
    return 96 - 2 * frame, 68


def disc(frame):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    x0, y0 = disc_at(frame)
    return (x - x0) ** 2 + (y - y0) ** 2 < 15**2


def ball(frame):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    x0, y0 = ball_at(frame)
    return (x - x0) ** 2 + (y - y0) ** 2 < 18**2


def box_around(mask):
    """Return x0, y0, x1, y1 of a mask."""
    x0, y0, x1, y1 = box_of(mask)
    return float(x0), float(y0), float(x1), float(y1)


def picture(frame):
    """Return a frame: a yellow disc and a blue ball, shaded, on a dark ground with soft waves."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.sin(x / 7) * np.cos(y / 9)
    rgb = np.stack([25 + 12 * waves, 30 + 15 * waves, 20 + 8 * waves], axis=-1)
    shade = 0.8 + 0.2 * np.sin((x + y) / 9)
    for mask, colour in ((disc(frame), (240, 220, 60)), (ball(frame), (60, 120, 240))):
        rgb[mask] = shade[mask, None] * colour
    return rgb.astype(np.uint8)


def write_film(path, frames=FRAMES):
    """Write the clip as MP4."""
    with VideoWriter(path, fps=Fraction(10)) as film:
        for frame in range(frames):
            film.write(picture(frame))
    return path


def write_folder(path, frames=FRAMES):
    """Write the clip as PNGs, exact to the pixel."""
    path.mkdir()
    for frame in range(frames):
        Image.fromarray(picture(frame)).save(path / f"{frame}.png")
    return path


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def middle(mask):
    """Return the centre x, y of a mask."""
    ys, xs = np.nonzero(mask)
    return float(xs.mean()), float(ys.mean())
