"""What people say, put to nano's decoder, and what is taken of its answers; the other models answer by Meta's rules.

nano has no memory by which to know what a click on a mask belongs to, and its decoder takes one for the piece under it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from masklet.inputs import boxes_around, dense, framed, with_boxes
from masklet.model.colours import CELL
from masklet.model.mask_decoder import Answers
from masklet.model.network import CERTAIN, PLAUSIBLE, Decoded, Features, Network, Points
from masklet.model.prompt_encoder import BOX_TOP_LEFT, NEGATIVE, POSITIVE
from masklet.model.target_model import learned, sharpened

GROWTH, MOST_GROWTHS = 0.1, 2
"""Boxes by which one click comes to mean a whole thing are this much larger, and so many are tried."""
KEPT = 0.9
"""An answer to clicks that keeps less than this share of a frame's mask has forgotten what they are about."""
MOST_TAKEN = 0.9
"""Nor does a negative click mean more than this share of it: then what lies under the click is asked for by itself."""
Piece = Callable[[Tensor], Tensor]
"""Finds the smallest thing `[4h, 4w]` at a point `[2]`."""


def put(
    network: Network, features: Features, image: Tensor, points: Points, earlier: Tensor | None, *, amends: bool
) -> Points:
    """Return how to put points `[1, n, 2]` about a frame that has a mask already, logits `[1, 1, 4h, 4w]`.

    To nano they are put as they are, or with a box around that mask and themselves, which says what they are about
    (`docs/nano.md`). `amends`: only a piece of the mask changes. Then the box is needed for the piece to end where the
    thing does, unless the answer misses a click; else it is where without one most of the mask is forgotten.
    """
    if earlier is None or not network.config.is_nano or (points.labels == BOX_TOP_LEFT).any():
        return points
    inside = earlier > 0
    if not inside.any():
        return points
    boxed = framed(points, earlier)
    positive = points.xy[points.labels == POSITIVE]
    if not len(positive):
        return boxed
    first, other = (boxed, points) if amends else (points, boxed)
    with torch.no_grad():
        answers = network.answer(image, features.fine, first, earlier)
    found = chosen(network, features, image, first, answers).logits > 0
    if amends:
        return first if all(found[0, 0][_around(xy)].any() for xy in positive) else other
    return first if (found & inside).sum() >= KEPT * inside.sum() else other


def chosen(
    network: Network, features: Features, image: Tensor, points: Points, answers: Answers, kept: Tensor | None = None
) -> Decoded:
    """Choose among the answers to prompts; nano takes one click for a whole thing, and then looks at the edges.

    Of a mask that is `kept`, logits `[b, 1, 4h, 4w]`, the clicks change only the pieces that they point at.
    """
    decoded = network.choose(answers, ambiguous=points.ambiguous)
    if not network.config.is_nano:
        return decoded
    if points.ambiguous:
        decoded = grown(network, image, points, decoded, answers.ious[:, 0])
    decoded = _with_own_edges(features, decoded)
    if kept is None:
        boxed = bool((points.labels == BOX_TOP_LEFT).any())
        return drawn_again(network, features, image, points, decoded) if boxed else decoded
    pieces = [partial(smallest, network, features, image[row : row + 1]) for row in range(len(image))]
    gone = ~((kept > 0).flatten(1).any(1) | (points.labels == POSITIVE).any(1))  # and nothing is said to be there
    return replace(
        decoded,
        logits=amended(kept, decoded.logits, points, pieces),
        scores=torch.where(gone, -CERTAIN, decoded.scores),
    )


def grown(network: Network, image: Tensor, clicks: Points, decoded: Decoded, ious: Tensor) -> Decoded:
    """Ask again with a box slightly larger than each answer, as long as the decoder thinks better of what it finds.

    What one click finds is often a part: a box shows the decoder that more may belong to it (`docs/nano.md`). `ious`
    are predicted of the single answers to the clicks alone.
    """
    for _ in range(MOST_GROWTHS):
        with torch.no_grad():
            wider = asked_again(network, image, clicks, decoded)
        better = (wider.ious[:, 0] > ious) & (decoded.scores > 0)
        if not better.any():
            break
        ious = torch.where(better, wider.ious[:, 0], ious)
        decoded = replace(
            decoded,
            logits=torch.where(better[:, None, None, None], wider.logits[:, :1], decoded.logits),
            ious=torch.where(better, ious, decoded.ious),
        )
    return decoded


def drawn_again(network: Network, features: Features, image: Tensor, points: Points, decoded: Decoded) -> Decoded:
    """Show the decoder its answer to a box with the edges that the answer's own model gave it, and take the next."""
    with torch.no_grad():
        answers = network.answer(image, features.fine, points, dense(decoded.logits))
    return _with_own_edges(features, replace(decoded, logits=answers.logits[:, :1], ious=answers.ious[:, 0]))


def _with_own_edges(features: Features, decoded: Decoded) -> Decoded:
    """Sharpen each mask by what is learned from itself."""
    sharp = [sharpened(mask, features.early, learned(features.early, mask > 0)) for mask in decoded.logits[:, 0]]
    return replace(decoded, logits=torch.stack(sharp)[:, None])


def asked_again(network: Network, image: Tensor, clicks: Points, decoded: Decoded) -> Answers:
    """Return the answers to clicks and a box slightly larger than what was found."""
    points = with_boxes(boxes_around(decoded.logits, GROWTH), clicks)
    return network.answer(image, None, points, None)


def smallest(network: Network, features: Features, image: Tensor, xy: Tensor) -> Tensor:
    """Return the smallest thing that a point `[2]` of a picture `[1, 256, h, w]` can mean, `[4h, 4w]`."""
    points = Points(xy[None, None], torch.tensor([[POSITIVE]], device=xy.device))
    with torch.no_grad():
        answers = network.answer(image, features.fine, points, None)
    ious, readings = answers.ious[0, 1:], answers.logits[0, 1:] > 0
    areas = torch.where(ious >= ious.max() - PLAUSIBLE, readings.sum(dim=(1, 2)), readings[0].numel())
    return readings[areas.argmin()]


def amended(kept: Tensor, found: Tensor, clicks: Points, pieces: Sequence[Piece]) -> Tensor:
    """Change of a mask, logits `[b, 1, 4h, 4w]`, what clicks `[b, n, 2]` point at, as far as an answer reaches there.

    A positive click adds the piece of the answer under it, a negative one takes away the piece that the answer lacks,
    or, where that is most of the mask or does not reach the click, the smallest thing under it. A mask without an
    inside is the answer, unless nothing is said to be there.
    """
    rows = zip(kept[:, 0], found[:, 0], clicks.xy, clicks.labels, pieces, strict=True)
    return torch.stack([_amended(*row) for row in rows])[:, None]


def _amended(mask: Tensor, answer: Tensor, xy: Tensor, labels: Tensor, piece: Piece) -> Tensor:
    before, after, positive = mask > 0, answer > 0, labels == POSITIVE
    if not before.any():
        return answer if positive.any() else mask
    added, lost = _pieces(after & ~before, xy[positive]), torch.zeros_like(before)
    for point in xy[labels == NEGATIVE]:
        taken = _pieces(before & ~after, point[None])
        honoured = taken[_around(point)].any() and taken.sum() <= MOST_TAKEN * before.sum()
        if before[_around(point)].any():
            lost |= taken if honoured else before & piece(point)
    return torch.where(added, answer, torch.where(lost, -answer.abs(), mask))


def _pieces(area: Tensor, xy: Tensor) -> Tensor:
    """Return the connected pieces of an area `[4h, 4w]` that lie under points `[n, 2]`, or right beside them."""
    reached = torch.zeros_like(area)
    for point in xy:
        reached[_around(point)] = True
    reached &= area
    while True:
        wider = (functional.max_pool2d(reached[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0) & area
        if torch.equal(wider, reached):
            return reached
        reached = wider


def _around(xy: Tensor) -> tuple[slice, slice]:
    """Return the rows and columns of the cell at a point `[2]` and of those beside it."""
    x, y = (xy / CELL).long().tolist()
    return slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)
