"""What nano takes of the answers to clicks: a click on a mask is about that mask, and changes a piece of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clips import ball, disc, nano, write_folder

from masklet.answers import amended
from masklet.inputs import framed
from masklet.model.network import Points
from masklet.session import Session

BUNNY = Path(__file__).parents[1] / "examples" / "bunny.mp4"


def drawn(text):
    """Return logits `[1, 1, 4h, 4w]` of a drawing: `#` inside, the rest outside."""
    rows = [[5.0 if cell == "#" else -5.0 for cell in line] for line in text.split()]
    return torch.tensor(rows)[None, None]


def clicks(*said):
    """Return clicks on cells, each `(row, column, positive)`."""
    xy = [[4.0 * column + 2, 4.0 * row + 2] for row, column, _ in said]
    return Points(torch.tensor([xy]), torch.tensor([[int(positive) for _, _, positive in said]]))


MASK = ".......... .####..... .####..... .####..... .......... ##........"
ANSWER = "#......... ..######.. ..######.. ..######.. .......... .........."


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ([(2, 6, True)], ".......... .#######.. .#######.. .#######.. .......... ##........"),
        ([(2, 1, False)], ".......... ..###..... ..###..... ..###..... .......... ##........"),
        ([(5, 0, False)], ".......... .####..... .####..... .####..... .......... .........."),
        ([(2, 3, True)], ".......... .####..... .####..... .####..... .......... ##........"),
        ([(2, 6, True), (5, 0, False)], ".......... .#######.. .#######.. .#######.. .......... .........."),
    ],
    ids=["what is missing", "what is too much", "a piece apart", "what is there already", "both"],
)
def test_clicks_change_the_pieces_that_they_point_at_and_nothing_else(said, becomes):
    changed = amended(drawn(MASK), drawn(ANSWER), clicks(*said)) > 0
    assert torch.equal(changed, drawn(becomes) > 0)


def test_of_a_mask_without_an_inside_the_answer_is_taken_whole():
    assert torch.equal(amended(drawn(".... ...."), drawn(".##. ...."), clicks((0, 0, True))), drawn(".##. ...."))


def test_a_box_goes_around_the_mask_and_what_is_to_be_added():
    points = framed(
        clicks((5, 9, True), (0, 0, False)), drawn(".......... .####..... .####..... .####..... .......... ..........")
    )
    assert points.labels.tolist() == [[2, 3, 1, 0]]
    (x0, y0), (x1, y1) = points.xy[0, :2].tolist()
    assert (x0 <= 4, y0 <= 4, x1, y1) == (True, True, 38.0, 22.0)


@pytest.fixture(scope="module")
def bunny():
    with Session(BUNNY, nano(768)) as session:
        session.add_box("bunny", 0, 120, 10, 320, 310)
        tracked = {masks.frame: masks for masks in session.track("forward", max_frames=5)}
        yield session, tracked[4]["bunny"]


def middle_of(mask, *, right_of):
    """Return the middle of what a mask has there, x and y."""
    ys, xs = np.nonzero(mask)
    some = xs >= np.quantile(xs, right_of)
    return float(np.median(xs[some])), float(np.median(ys[some]))


def test_a_click_beside_what_was_tracked_adds_to_it(bunny):
    session, before = bunny
    x, y = middle_of(before, right_of=0.9)
    x = float(np.flatnonzero(before[int(y)]).max() + 25)
    after = session.add_click("bunny", 4, x, y)["bunny"]
    assert after[int(y), int(x)]
    assert (before & after).sum() > 0.99 * before.sum()


def test_a_negative_click_on_what_was_tracked_takes_away_from_it(tmp_path):
    with Session(write_folder(tmp_path / "clip"), nano(448)) as session:
        session.add_mask("both", 0, disc(0) | ball(0))
        tracked = {masks.frame: masks for masks in session.track("forward", max_frames=3)}
        ys, xs = np.nonzero(ball(2))
        after = session.add_click("both", 2, xs.mean(), ys.mean(), positive=False)["both"]
    assert after[ball(2)].mean() < 0.05
    assert after[disc(2)].mean() >= tracked[2]["both"][disc(2)].mean() - 0.02


def test_a_second_click_keeps_what_the_first_one_meant():
    with Session(BUNNY, nano(768)) as session:
        first = session.add_click("bunny", 0, 245, 60)["bunny"]
        second = session.add_click("bunny", 0, 205, 190)["bunny"]
    assert (first & second).sum() > 0.85 * first.sum()
