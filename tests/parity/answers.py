"""What a tracker answers when it acts out a scenario, and how two trackers' answers are compared."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Answer:
    """What a tracker says of one object on one frame."""

    logits: Tensor
    """`[h, w]`, the clip's size."""
    score: float
    iou: float


TOLERANCE = 1e-3
"""Of mask logits, scores and predicted IoUs."""

Answers = dict[tuple[int, int, str], Answer]
"""By the action's position in the scenario, the frame and the object."""


@dataclass(frozen=True)
class Difference:
    """The worst of two runs, over all frames and objects."""

    logits: float
    score: float
    iou: float
    """Of the predicted IoU."""
    overlap: float
    """The smallest IoU of the two runs' masks; two empty masks overlap wholly."""
    odd: float
    """The share of all pixels whose logits differ by more than the tolerance."""


def compare(a: Answers, b: Answers) -> Difference:
    """Compare two runs, having checked that both answered the same questions."""
    assert a.keys() == b.keys(), f"one answered {sorted(a)}, the other {sorted(b)}"
    pairs = [(a[key], b[key]) for key in a]
    return Difference(
        max(float((x.logits - y.logits).abs().max()) for x, y in pairs),
        max(abs(x.score - y.score) for x, y in pairs),
        max(abs(x.iou - y.iou) for x, y in pairs),
        min(_overlap(x.logits > 0, y.logits > 0) for x, y in pairs),
        sum(float(((x.logits - y.logits).abs() > TOLERANCE).float().mean()) for x, y in pairs) / len(pairs),
    )


def _overlap(a: Tensor, b: Tensor) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
