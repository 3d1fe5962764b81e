"""What people say of a picture, as the network takes it: points, boxes and masks at its input size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklet.model.holes import fill_holes
from masklet.model.layers import resize
from masklet.model.network import STRIDE, Network, Points
from masklet.model.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, PADDING, POSITIVE
from masklet.prompts import Prompt

LOGIT_LIMIT = 32.0
"""Earlier logits are clamped to this before they are a prompt (`sam2_video_predictor.py`)."""
BOX_MARGIN = 0.05
"""A propagated box is this much of its size larger on each side (`docs/nano.md`)."""


@dataclass(frozen=True)
class Geometry:
    """The source's size and the network's input size; the one place where coordinates are scaled."""

    height: int
    width: int
    input_hw: tuple[int, int]

    @classmethod
    def of(cls, network: Network, *, height: int, width: int) -> "Geometry":
        """SAM 2 squashes to a square; nano keeps the shape, its long side at the configured size."""
        side = network.config.image_px
        if not network.config.is_nano:
            return cls(height, width, (side, side))
        scale = side / max(height, width)
        rounded = [max(1, round(n * scale / STRIDE)) * STRIDE for n in (height, width)]
        return cls(height, width, (rounded[0], rounded[1]))

    def scale(self, xy: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Turn source pixels into input pixels."""
        return [(x / self.width * self.input_hw[1], y / self.height * self.input_hw[0]) for x, y in xy]


def input_mask(network: Network, geometry: Geometry, mask: NDArray[np.bool_]) -> Tensor:
    """Bring a person's mask `[h, w]` to the network's input size, `[1, 1, 16h, 16w]`, 0 or 1."""
    picture = torch.from_numpy(np.ascontiguousarray(mask)).to(network.device)[None, None].float()
    return (resize(picture, geometry.input_hw, antialias=True) >= 0.5).float()


def points_of(network: Network, geometry: Geometry, prompt: Prompt) -> Points:
    """Write clicks and box as points, the box first as the network learned it."""
    xy = geometry.scale([(c.x, c.y) for c in prompt.clicks])
    labels = [POSITIVE if c.positive else NEGATIVE for c in prompt.clicks]
    if prompt.box is not None:
        corners = geometry.scale([(prompt.box.x0, prompt.box.y0), (prompt.box.x1, prompt.box.y1)])
        xy, labels = [*corners, *xy], [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, *labels]
    device = network.device
    return Points(
        torch.tensor([xy], dtype=torch.float32, device=device),
        torch.tensor([labels], device=device),
    )


def framed(clicks: Points, logits: Tensor) -> Points:
    """Put a box around a mask, logits `[1, 1, 4h, 4w]`, and the positive clicks `[1, n, 2]`, and keep the clicks."""
    low, high = boxes_around(logits).xy[0]
    for xy in clicks.xy[clicks.labels == POSITIVE]:
        low, high = torch.minimum(low, xy), torch.maximum(high, xy)
    corners = torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]], device=clicks.labels.device)
    return with_boxes(Points(torch.stack((low, high))[None], corners), clicks)


def with_boxes(boxes: Points, clicks: Points) -> Points:
    """Put boxes before the clicks of the same objects, as the network learned them."""
    return Points(torch.cat((boxes.xy, clicks.xy), dim=1), torch.cat((boxes.labels, clicks.labels), dim=1))


def dense(logits: Tensor) -> Tensor:
    """Turn earlier logits into a dense prompt."""
    return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)


def boxes_around(logits: Tensor, margin: float = BOX_MARGIN) -> Points:
    """Put a box, slightly larger, around each mask of logits `[b, 1, 4h, 4w]`; padding where there is none."""
    boxes = [_box(mask[0] > 0, margin) for mask in without_specks(logits)]
    xy = torch.tensor([box or [(0.0, 0.0), (0.0, 0.0)] for box in boxes], device=logits.device)
    labels = torch.tensor([(BOX_TOP_LEFT, BOX_BOTTOM_RIGHT) if box else (PADDING, PADDING) for box in boxes])
    return Points(xy, labels.to(logits.device))


def without_specks(logits: Tensor) -> Tensor:
    """Sink the islands that are as small as holes are, in `[b, 1, 4h, 4w]`; a mask of nothing else keeps them.

    A box around a mask and one far speck would be a prompt for all that lies between the two.
    """
    clean = -fill_holes(-logits)
    return torch.where((clean > 0).flatten(1).any(1)[:, None, None, None], clean, logits)


def _box(cells: Tensor, margin: float = BOX_MARGIN) -> list[tuple[float, float]] | None:
    """Return the corners of a low-resolution mask `[h, w]`, with a margin, in input pixels."""
    ys, xs = cells.any(1).nonzero(), cells.any(0).nonzero()
    if not len(ys):
        return None
    x0, x1 = 4.0 * xs[0].item(), 4.0 * (xs[-1].item() + 1)
    y0, y1 = 4.0 * ys[0].item(), 4.0 * (ys[-1].item() + 1)
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    right, bottom = 4.0 * cells.shape[1], 4.0 * cells.shape[0]
    return [(max(0.0, x0 - dx), max(0.0, y0 - dy)), (min(right, x1 + dx), min(bottom, y1 + dy))]
