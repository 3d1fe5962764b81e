"""What nano takes of the answers to clicks: a click on a mask is about that mask, and changes a piece of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clips import HEIGHT, WIDTH, ball, disc, disc_at, iou, nano, picture, write_folder
from PIL import Image

from masklet.answers import amended, put
from masklet.inputs import boxes_around, framed, points_of
from masklet.masks import box_of
from masklet.model.network import ABSENT, Network, Points, Recollection
from masklet.prompts import Box, Click, Prompt
from masklet.session import Session
from masklet.tracker import Tracker

BUNNY = Path(__file__).parents[1] / "examples" / "bunny.mp4"


def drawn(text):
    """Return logits `[1, 1, 4h, 4w]` of a drawing: `#` inside, the rest outside."""
    rows = [[5.0 if cell == "#" else -5.0 for cell in line] for line in text.split()]
    return torch.tensor(rows)[None, None]


def clicks(*said):
    """Return clicks on cells, each `(row, column, positive)`."""
    xy = [[4.0 * column + 2, 4.0 * row + 2] for row, column, _ in said]
    return Points(torch.tensor([xy]), torch.tensor([[int(positive) for _, _, positive in said]]))


def never(xy):
    raise AssertionError("nothing more needs to be asked")


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
        ([(2, 1, False), (5, 0, False)], ".......... ..###..... ..###..... ..###..... .......... .........."),
        ([(4, 8, False)], MASK),
    ],
    ids=[
        "what is missing",
        "what is too much",
        "a piece apart",
        "what is there already",
        "what is missing and a piece apart",
        "two pieces that are too much",
        "not the object, as is known",
    ],
)
def test_clicks_change_the_pieces_that_they_point_at_and_nothing_else(said, becomes):
    changed = amended(drawn(MASK), drawn(ANSWER), clicks(*said), [never]) > 0
    assert torch.equal(changed, drawn(becomes) > 0)


@pytest.mark.parametrize(
    "answer",
    [".......... .......... .......... .......... .......... ..........", MASK],
    ids=["all is lost", "nothing is"],
)
def test_where_the_answer_to_a_negative_click_loses_all_or_nothing_the_smallest_thing_under_it_is_taken_away(answer):
    thing = drawn(".......... .##....... .##....... .......... .......... ..........")[0, 0] > 0
    asked = []

    def smallest(xy):
        asked.append(xy.tolist())
        return thing

    whole = drawn(".......... .####..... .####..... .####..... .......... ..........")
    changed = amended(whole, drawn(answer), clicks((1, 1, False)), [smallest]) > 0
    assert torch.equal(changed, (whole > 0) & ~thing)
    assert asked == [[6.0, 6.0]]


@pytest.mark.parametrize(("positive", "becomes"), [(True, ".##. ...."), (False, ".... ....")])
def test_where_there_is_no_mask_only_a_positive_click_makes_one(positive, becomes):
    said = clicks((0, 0, positive))
    assert torch.equal(amended(drawn(".... ...."), drawn(".##. ...."), said, [never]), drawn(becomes))


def test_a_box_goes_around_the_mask_and_what_is_to_be_added():
    points = framed(
        clicks((5, 9, True), (0, 0, False)), drawn(".......... .####..... .####..... .####..... .......... ..........")
    )
    assert points.labels.tolist() == [[2, 3, 1, 0]]
    (x0, y0), (x1, y1) = points.xy[0, :2].tolist()
    assert (x0 <= 4, y0 <= 4, x1, y1) == (True, True, 38.0, 22.0)


@pytest.mark.parametrize(
    ("mask", "box"),
    [
        (".......... .####....# .####..... .####.....", [[4, 4], [20, 16]]),
        (".......... .#.......# .......... ..........", [[4, 4], [40, 8]]),  # nothing else is there
        (".......... .......... .......... ..........", None),
    ],
)
def test_a_box_around_what_was_found_leaves_specks_out(mask, box):
    points = boxes_around(drawn(mask), 0)
    assert points.labels.tolist() == ([[2, 3]] if box else [[-1, -1]])
    assert box is None or points.xy[0].tolist() == box


def test_a_box_around_what_was_found_is_a_little_larger_but_not_than_the_picture():
    points = boxes_around(drawn("########## ########## ########## .........."), 0.25)
    assert points.xy[0].tolist() == [[0, 0], [40, 15]]


def put_to_nano(prompt, *, amends, before=disc):
    """Return how clicks on a frame that has a mask already are put: 1 and 0 clicks, 2 and 3 corners of a box."""
    tracker = Tracker(nano(448), height=HEIGHT, width=WIDTH)
    features = tracker.see(picture(0))
    earlier = tracker.prompt(features, Prompt("disc", 0, mask=before(0))).logits[None]
    image = tracker.network.recall(features, [Recollection((), (), tracker.reach)])
    points = points_of(tracker.network, tracker.geometry, prompt)
    return put(tracker.network, features, image, points, earlier, amends=amends).labels.tolist()[0]


ON, BESIDE, OFF = Click(40, 30), Click(96, 68), Click(40, 30, False)


@pytest.mark.parametrize(
    ("clicks", "amends", "labels"),
    [
        ((ON,), False, [1]),  # most of the mask is kept
        ((BESIDE,), False, [2, 3, 1]),  # the disc would be forgotten
        ((ON,), True, [2, 3, 1]),
        ((OFF,), False, [2, 3, 0]),  # nothing else says what it is about
        ((OFF,), True, [2, 3, 0]),
    ],
)
def test_a_click_on_a_mask_is_put_with_a_box_where_it_takes_one_to_say_what_it_is_about(clicks, amends, labels):
    assert put_to_nano(Prompt("disc", 0, clicks=clicks), amends=amends) == labels


def test_a_box_is_put_as_it_is_and_so_is_a_click_where_there_is_no_mask():
    around = Box(24, 14, 56, 46)
    assert put_to_nano(Prompt("disc", 0, clicks=(ON,), box=around), amends=True) == [2, 3, 1]
    assert put_to_nano(Prompt("disc", 0, clicks=(ON,)), amends=True, before=lambda frame: disc(0) & False) == [1]


@pytest.mark.parametrize("positive", [True, False])
def test_a_click_on_a_tracked_frame_without_the_object_says_whether_it_is_there(positive):
    tracker = Tracker(nano(448), height=HEIGHT, width=WIDTH)
    tracker.prompt(tracker.see(picture(0)), Prompt("disc", 0, mask=disc(0)))
    nothing = np.full_like(tracker.bank("disc").at(0).low_resolution(), ABSENT)
    said = Prompt("disc", 1, clicks=(Click(*disc_at(1), positive),))
    memory = tracker.prompt(tracker.see(picture(1)), said, reverse=False, before=nothing)
    assert (memory.score > 0, tracker.masks(1, {"disc": memory}).any()) == (positive, positive)


@pytest.fixture
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


@pytest.mark.parametrize("waits", [False, True])
def test_a_negative_click_where_the_object_is_gone_brings_nothing_back(tmp_path, waits):
    clip = write_folder(tmp_path / "clip")
    for frame in range(3, 6):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(clip / f"{frame}.png")
    with Session(clip, nano(448)) as session:
        session.add_mask("disc", 0, disc(0))
        if not waits:
            list(session.track("forward", max_frames=6))
        session.add_click("disc", 4, 20, 20, positive=False)
        tracked = {masks.frame: masks for masks in session.track("forward", max_frames=6)}
    assert [tracked[frame]["disc"].any() for frame in range(6)] == [True] * 3 + [False] * 3
    assert tracked[4].object_scores[0] < 0


def test_an_object_that_a_person_calls_gone_is_found_again(tmp_path):
    clip = write_folder(tmp_path / "clip")
    for frame in range(3, 5):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(clip / f"{frame}.png")
    with Session(clip, nano(448)) as session:
        session.add_mask("disc", 0, disc(0))
        list(session.track())
        session.add_mask("disc", 4, np.zeros((HEIGHT, WIDTH), bool))
        tracked = {masks.frame: masks for masks in session.track()}
    assert not tracked[4]["disc"].any()
    assert all(iou(tracked[frame]["disc"], disc(frame)) > 0.8 for frame in (5, 6, 7))


def test_a_negative_click_inside_a_good_mask_leaves_most_of_it(bunny):
    session, _ = bunny
    before = session.preview(3)["bunny"]
    ys, xs = np.nonzero(before)
    x, y = float(np.median(xs)), float(np.quantile(ys, 0.75))
    after = session.add_click("bunny", 3, x, y, positive=False)["bunny"]
    assert not after[int(y), int(x)]
    assert not (after & ~before).sum() > 0.02 * before.sum()
    assert after.sum() > 0.1 * before.sum()


@pytest.mark.parametrize("clicks", [(), (Click(64, 48),)], ids=["alone", "with a click"])
def test_a_box_is_asked_about_again_with_what_was_found_as_a_mask(monkeypatch, clicks):
    answer, asked = Network.answer, []

    def heard(network, image, fine, points, mask):
        asked.append((points.labels.tolist(), mask))
        return answer(network, image, fine, points, mask)

    monkeypatch.setattr(Network, "answer", heard)
    tracker = Tracker(nano(), height=HEIGHT, width=WIDTH)
    x0, y0, x1, y1 = map(float, box_of(disc(0)))
    tracker.prompt(tracker.see(picture(0)), Prompt("disc", 0, clicks=clicks, box=Box(x0, y0, x1, y1)))
    (labels, nothing), (again, mask) = asked
    assert labels == again == [[2, 3, *(1 for _ in clicks)]]
    assert nothing is None
    assert iou(tracker.enlarge(mask[0, 0].numpy()) > 0, disc(0)) > 0.9
