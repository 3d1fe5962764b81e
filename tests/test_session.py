"""What a person says about objects, in any order and on any frame, and the masks that follow from it."""

from collections import Counter

import numpy as np
import pytest
from clips import FRAMES, HEIGHT, WIDTH, ball, box_around, disc, iou, middle, nano, tiny, write_film, write_folder

from masklet.errors import BadPrompt, BadVideo, Cancelled
from masklet.prompts import Box, Click, Prompt
from masklet.session import Session

EVERY = list(range(FRAMES))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("clips") / "pictures")


@pytest.fixture
def session(clip):
    with Session(clip, nano()) as opened:
        yield opened


@pytest.fixture
def wiring(clip):
    """A session whose masks mean nothing but whose memory works."""
    with Session(clip, tiny()) as opened:
        yield opened


@pytest.fixture
def seen(monkeypatch):
    """Count how often each frame goes through the network, and which objects are stepped on it."""
    counted = Counter()

    def watch(session):
        step = session.tracker.step

        def counting(frame, features, objects, *, reverse=False):
            counted.update((name, frame) for name in objects)
            return step(frame, features, objects, reverse=reverse)

        monkeypatch.setattr(session.tracker, "step", counting)
        return counted

    return watch


def track(session, *args, **kwargs):
    return {masks.frame: masks for masks in session.track(*args, **kwargs)}


def box(session, name, frame, mask):
    return session.add_box(name, frame, *box_around(mask))


def same(first, second):
    """Whether two runs gave the same frames, objects, masks, scores and predicted IoUs, to the bit."""
    return first.keys() == second.keys() and all(
        a.objects == b.objects
        and np.array_equal(a.masks, b.masks)
        and np.array_equal(a.object_scores, b.object_scores)
        and np.array_equal(a.ious, b.ious)
        for a, b in ((first[frame], second[frame]) for frame in first)
    )


def answer(masks, name):
    """Return all that was answered of one object: a network with random weights draws almost the same masks of all."""
    row = masks.objects.index(name)
    return masks.masks[row].tobytes(), masks.object_scores[row], masks.ious[row]


def stop_after(frames):
    """Return a progress that cancels when so many frames are done."""

    def progress(done, total):
        if done == frames:
            raise Cancelled("enough")

    return progress


# Prompts


@pytest.mark.parametrize(
    ("image_px", "say"),
    [
        (224, lambda s: box(s, "disc", 2, disc(2))),
        (224, lambda s: s.add_mask("disc", 2, disc(2))),
        (448, lambda s: [s.add_click("disc", 2, 44 + dx, 30 + dy) for dx, dy in ((0, 0), (9, 0), (-9, 0), (0, 9))][-1]),
        (
            224,
            lambda s: s.add(
                Prompt("disc", 2, clicks=(Click(44, 30), Click(5, 5, False)), box=Box(*box_around(disc(2))))
            ),
        ),
    ],
    ids=["box", "mask", "clicks one by one", "box and clicks at once"],
)
def test_an_object_is_answered_at_once_and_then_found_on_every_frame(clip, image_px, say):
    with Session(clip, nano(image_px)) as session:
        at_once = say(session)
        assert (at_once.frame, at_once.objects, at_once.masks.shape) == (2, ("disc",), (1, HEIGHT, WIDTH))
        assert iou(at_once["disc"], disc(2)) > 0.85
        tracked = track(session)
        assert list(tracked) == EVERY
        assert min(iou(masks["disc"], disc(frame)) for frame, masks in tracked.items()) > 0.85
        assert np.array_equal(tracked[2]["disc"], at_once["disc"])
        assert all(masks.object_scores.dtype == masks.ious.dtype == np.float32 for masks in tracked.values())


@pytest.mark.parametrize("around", [None, Box(5, 5, 60, 60)], ids=["alone", "after a box"])
def test_clicks_on_one_frame_add_up_to_one_prompt(wiring, clip, around):
    clicks = (Click(10, 40), Click(20, 40, False), Click(30, 40))
    with Session(clip, tiny()) as other:
        if around is not None:
            for one in (wiring, other):
                one.add(Prompt("dog", 0, box=around))
        for count, click in enumerate(clicks, start=1):
            wiring.add_click("dog", 0, click.x, click.y, positive=click.positive)
            # What was answered before takes part, as with SAM 2's own predictor: so it is said as often here.
            other.add(Prompt("dog", 0, clicks=clicks[:count], box=around))
            assert answer(wiring.preview(0), "dog") == answer(other.preview(0), "dog")


@pytest.mark.parametrize("later", ["box", "mask"])
def test_a_box_or_a_mask_takes_the_place_of_what_was_said_before(session, later):
    session.add_mask("disc", 0, ball(0))
    if later == "box":
        box(session, "disc", 0, disc(0))
    else:
        session.add_mask("disc", 0, disc(0))
    assert iou(session.preview(0)["disc"], disc(0)) > 0.85


def test_frames_know_when_they_are_shown(tmp_path):
    with Session(write_film(tmp_path / "clip.mp4"), tiny()) as film:
        film.add_click("dog", 0, 40, 40)
        assert [masks.seconds for masks in film.track()] == pytest.approx([frame / 10 for frame in EVERY])


def test_watching_gives_each_picture_with_its_masks(session, clip):
    box(session, "disc", 0, disc(0))
    watched = list(session.watch())
    assert [(frame.index, masks.frame) for frame, masks in watched] == [(frame, frame) for frame in EVERY]
    assert watched[3][0].rgb.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("say", "kind", "message"),
    [
        (lambda s: s.add_click("dog", 8, 1, 1), BadPrompt, r"frame 8.*0\.\.7, the video has 8 frames"),
        (lambda s: s.add_click("dog", 0, 128, 1), BadPrompt, r"x = 128 is outside the frame; choose 0\.\.127"),
        (lambda s: s.add_click("dog", 0, 1, float("nan")), BadPrompt, r"y = nan is outside the frame; choose 0\.\.95"),
        (lambda s: s.add_box("dog", 0, 9, 9, 9, 20), BadPrompt, "is empty"),
        (lambda s: s.add_mask("dog", 0, np.ones((4, 4), bool)), BadPrompt, r"of the video's shape, \(96, 128\)"),
        (lambda s: s.add_click("dog", 0, 1, 1, positive=False), BadPrompt, "say first where it is"),
        (
            lambda s: s.add_mask("dog", 0, np.zeros((HEIGHT, WIDTH), bool)),
            BadPrompt,
            "empty mask on frame 0, and nothing",
        ),
        (lambda s: s.remove("cat"), BadPrompt, "there is no object 'cat': choose one of none yet"),
        (lambda s: s.clear("cat", 3), BadPrompt, "'cat' has no prompt on frame 3"),
        (lambda s: s.add_click(1, 0, 4, 5), BadPrompt, r"object name 1 is not text: write '1'"),
        (lambda s: s.preview(99), BadVideo, r"no frame 99.*0\.\.7"),
        (lambda s: s.track(), BadPrompt, "nothing to track: say first where an object is"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(wiring, say, kind, message):
    with pytest.raises(kind, match=message):
        say(wiring)
    assert wiring.objects == ()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"start": 8}, r"start = 8, but the video has 8 frames \(0\.\.7\)"),
        ({"start": -1}, "start = -1"),
        ({"max_frames": 0}, "max_frames = 0: ask for at least 1"),
    ],
)
def test_a_window_outside_the_video_is_refused_before_any_work(wiring, wish, message):
    wiring.add_click("dog", 0, 40, 40)
    with pytest.raises(BadPrompt, match=message):
        wiring.track(**wish)


# Which frames


@pytest.mark.parametrize(
    ("direction", "wish", "frames"),
    [
        ("both", {}, EVERY),
        ("forward", {}, [3, 4, 5, 6, 7]),
        ("backward", {}, [0, 1, 2, 3, 4, 5]),
        ("both", {"max_frames": 3}, [0, 1, 2]),
        ("forward", {"max_frames": 3}, [3, 4, 5]),
        ("backward", {"max_frames": 3}, [3, 4, 5]),
        ("both", {"start": 2, "max_frames": 4}, [2, 3, 4, 5]),
        ("forward", {"start": 4, "max_frames": 2}, [4, 5]),
        ("backward", {"start": 2, "max_frames": 2}, [1, 2]),
        ("forward", {"start": 6, "max_frames": 99}, [6, 7]),
        ("forward", {"start": 0}, EVERY),
    ],
)
def test_a_direction_a_start_and_a_number_choose_the_frames(wiring, direction, wish, frames):
    wiring.add_click("early", 3, 40, 40)
    wiring.add_click("late", 5, 60, 40)
    assert list(track(wiring, direction, **wish)) == frames


def test_each_frame_lists_the_objects_known_there_in_the_order_of_their_first_prompt(wiring):
    wiring.add_click("late", 5, 60, 40)
    wiring.add_click("early", 3, 40, 40)
    assert {frame: masks.objects for frame, masks in track(wiring, "forward").items()} == {
        3: ("early",),
        4: ("early",),
        5: ("late", "early"),
        6: ("late", "early"),
        7: ("late", "early"),
    }
    assert all(masks.objects == ("late", "early") for masks in track(wiring).values())


def test_backward_of_a_clip_is_forward_of_the_clip_turned_round(clip, tmp_path):
    turned = tmp_path / "turned"
    turned.mkdir()
    for frame in EVERY:
        (turned / f"{frame}.png").write_bytes((clip / f"{FRAMES - 1 - frame}.png").read_bytes())
    with Session(clip, tiny()) as one, Session(turned, tiny()) as other:
        one.add_box("dog", 7, 20, 20, 60, 60)
        other.add_box("dog", 0, 20, 20, 60, 60)
        backward, forward = track(one, "backward"), track(other, "forward")
    for frame in EVERY:
        assert answer(backward[7 - frame], "dog") == answer(forward[frame], "dog")


# Corrections


def test_a_correction_after_a_pass_changes_the_next_pass_and_spreads(session):
    session.add_mask("disc", 0, ball(0))  # a mistake
    first = track(session)
    assert iou(first[7]["disc"], disc(7)) == 0
    box(session, "disc", 4, disc(4))
    second = track(session)
    assert [iou(second[frame]["disc"], disc(frame)) > 0.85 for frame in EVERY] == [False] + [True] * 7
    assert np.array_equal(second[0]["disc"], ball(0))


def test_a_negative_click_on_a_tracked_frame_spreads_too(clip):
    with Session(clip, nano(448)) as session:
        session.add_mask("disc", 0, disc(0) | ball(0))
        assert track(session, max_frames=4)[3]["disc"][ball(3)].mean() > 0.9
        corrected = session.add_click("disc", 2, *middle(ball(2)), positive=False)
        assert iou(corrected["disc"], disc(2)) > 0.9
        assert iou(track(session, max_frames=4)[3]["disc"], disc(3)) > 0.9


def test_a_correction_tracks_again_only_what_it_touches(wiring, seen):
    for name in ("dog", "cat"):
        for frame in (0, 4):
            wiring.add_click(name, frame, 40, 40)
    before = track(wiring)
    stepped = seen(wiring)
    assert same(before, track(wiring))
    assert stepped == {}  # nothing was missing
    wiring.add_click("dog", 6, 50, 50)
    after = track(wiring)
    assert stepped == {("dog", 5): 1, ("dog", 7): 1}
    for frame in EVERY:
        assert answer(after[frame], "cat") == answer(before[frame], "cat")
        assert (answer(after[frame], "dog") == answer(before[frame], "dog")) is (frame < 5)


@pytest.fixture
def ways(wiring, monkeypatch):
    """Note from which side each frame is come to last."""
    noted = {}
    step = wiring.tracker.step

    def noting(frame, features, objects, *, reverse=False):
        noted[frame] = "backward" if reverse else "forward"
        return step(frame, features, objects, reverse=reverse)

    monkeypatch.setattr(wiring.tracker, "step", noting)
    return noted


def test_between_two_prompts_the_correction_leads(wiring, ways):
    wiring.add_click("dog", 0, 40, 40)
    track(wiring)
    ways.clear()
    wiring.add_click("dog", 4, 50, 50)
    track(wiring)
    assert ways == dict.fromkeys((1, 2, 3), "backward") | dict.fromkeys((5, 6, 7), "forward")


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_between_two_first_prompts_the_direction_leads(wiring, ways, direction):
    for frame in (2, 6):
        wiring.add_click("dog", frame, 40, 40)
    track(wiring, direction)
    assert [ways[frame] for frame in (3, 4, 5)] == [direction] * 3


def test_a_click_on_what_follows_from_a_mask_that_was_given_leads_nowhere(wiring, ways):
    wiring.add_mask("dog", 0, disc(0))
    track(wiring)
    wiring.add_click("dog", 4, 50, 50)
    track(wiring)
    assert set(ways.values()) == {"forward"}


@pytest.mark.parametrize(("first", "second", "way"), [(3, 5, "backward"), (5, 3, "forward")])
def test_of_two_corrections_the_later_one_leads(wiring, ways, first, second, way):
    wiring.add_click("dog", 0, 40, 40)
    for corrected in (first, second):
        track(wiring)
        wiring.add_click("dog", corrected, 50, 50)
    track(wiring)
    assert ways[4] == way


def test_what_follows_corrections_is_the_same_whether_or_not_it_was_tracked_in_between(clip):
    runs = []
    for tracks_between in (False, True):
        with Session(clip, nano()) as session:
            session.add_mask("thing", 0, ball(0))
            track(session)
            session.add_mask("thing", 3, ball(3))
            if tracks_between:
                track(session)
            session.add_mask("thing", 5, disc(5))
            runs.append(track(session))
    for frame in EVERY:
        assert answer(runs[0][frame], "thing") == answer(runs[1][frame], "thing")
    for frame, shape in ((2, ball), (4, disc), (6, disc)):  # the later one leads
        assert iou(runs[0][frame]["thing"], shape(frame)) > 0.8


def test_a_pass_does_not_go_on_from_what_a_correction_made_stale(clip):
    masks = []
    for last_of_first_pass in (3, 5):
        with Session(clip, tiny()) as session:
            session.add_mask("dog", 0, ball(0))
            track(session, "forward", max_frames=last_of_first_pass + 1)
            session.add_mask("dog", 2, disc(2))
            masks.append(track(session, "forward", start=6)[6])
    assert np.array_equal(masks[0].ious, masks[1].ious)


def test_a_negative_click_on_a_frame_not_reached_waits_and_is_applied_with_memory(clip):
    with Session(clip, nano(448)) as session:
        session.add_mask("disc", 0, disc(0) | ball(0))
        assert session.add_click("disc", 2, *middle(ball(2)), positive=False).objects == ()
        tracked = track(session, max_frames=4)
    assert tracked[1]["disc"][ball(1)].mean() > 0.9
    assert iou(tracked[2]["disc"], disc(2)) > 0.9
    assert iou(tracked[3]["disc"], disc(3)) > 0.9


def test_what_was_tracked_behind_a_correction_that_waits_is_tracked_again(clip):
    with Session(clip, nano(448)) as session:
        session.add_mask("disc", 0, disc(0) | ball(0))
        track(session, "forward", start=4)
        session.add_click("disc", 2, *middle(ball(2)), positive=False)
        tracked = track(session)
        assert max(tracked[frame]["disc"][ball(frame)].mean() for frame in range(2, FRAMES)) < 0.1


@pytest.mark.parametrize("tracked_before", [False, True])
def test_a_prompt_said_anew_after_a_pass_is_a_correction(session, tracked_before):
    session.add_mask("disc", 0, ball(0))
    if tracked_before:
        track(session)
    session.add_mask("disc", 6, ball(6))
    track(session)
    session.add_mask("disc", 6, disc(6))
    masks = track(session)
    assert all(iou(masks[frame]["disc"], disc(frame)) > 0.8 for frame in range(1, FRAMES))


def test_frames_may_be_numpys_integers(session):
    four = np.int64(4)
    session.add_mask("disc", 0, ball(0))
    track(session)
    box(session, "disc", four, disc(4))
    assert session.preview(4).objects == session.preview(four).objects == ("disc",)
    masks = track(session)
    assert all(iou(masks[frame]["disc"], disc(frame)) > 0.8 for frame in range(1, FRAMES))
    session.clear("disc", four)
    assert session.preview(4).objects == ()


def test_a_prompt_taken_back_leaves_no_trace(clip):
    with Session(clip, tiny()) as session, Session(clip, tiny()) as plain:
        for one in (session, plain):
            one.add_click("dog", 0, 40, 40)
        track(session)
        session.add_click("dog", 4, 90, 70)
        track(session)
        assert session.clear("dog", 4).objects == ()
        assert same(track(session), track(plain))


def test_an_object_without_any_prompt_is_gone(wiring):
    wiring.add_click("dog", 0, 40, 40)
    wiring.add_click("cat", 0, 60, 40)
    track(wiring)
    assert wiring.clear("dog", 0).objects == wiring.objects == ("cat",)
    assert all(masks.objects == ("cat",) for masks in track(wiring).values())


# Objects come and go


def test_an_object_added_after_a_pass_is_the_only_one_tracked(wiring, seen):
    wiring.add_click("dog", 0, 40, 40)
    before = track(wiring)
    stepped = seen(wiring)
    wiring.add_click("cat", 3, 90, 70)
    after = track(wiring)
    assert stepped == {("cat", frame): 1 for frame in EVERY if frame != 3}
    for frame in EVERY:
        assert after[frame].objects == ("dog", "cat")
        assert answer(after[frame], "dog") == answer(before[frame], "dog")


def test_a_removed_object_is_forgotten_and_the_others_keep_their_masks(wiring, seen):
    wiring.add_click("dog", 0, 40, 40)
    wiring.add_click("cat", 2, 90, 70)
    before = track(wiring)
    stepped = seen(wiring)
    wiring.remove("cat")
    after = track(wiring)
    assert stepped == {}
    for frame in EVERY:
        assert after[frame].objects == ("dog",)
        assert answer(after[frame], "dog") == answer(before[frame], "dog")


# Stopping and going on


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 6, 9, 10])  # three frames backward, then eight forward
def test_a_cancelled_pass_goes_on_as_if_it_had_never_stopped(clip, stop, seen):
    with Session(clip, tiny()) as session, Session(clip, tiny()) as whole:
        for one in (session, whole):
            one.add_box("dog", 3, 20, 20, 60, 60)
            one.add_box("cat", 2, 60, 40, 110, 90)
        stepped = seen(session)
        done = []
        with pytest.raises(Cancelled, match="enough"):
            done.extend(session.track(progress=stop_after(stop)))
        assert len(done) == max(0, stop - 3)
        assert same(track(session), track(whole))
        assert set(stepped.values()) == {1}  # nothing was done twice


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda session: track(session, "backward"),
        lambda session: session.add_mask("disc", 0, disc(0)),
        lambda session: [session.add_mask("disc", 4, disc(4)), track(session, "backward", start=4)],
    ],
    ids=["a pass backward", "a prompt further back", "a correction and a pass to it"],
)
def test_a_pass_goes_on_whatever_was_done_in_between(clip, meanwhile):
    runs = []
    for stops in (True, False):
        with Session(clip, tiny()) as session:
            session.add_mask("disc", 2, disc(2))
            if stops:
                track(session, "forward", max_frames=3)
            meanwhile(session)
            runs.append(track(session)[FRAMES - 1].ious)
    # What was tracked before a prompt further back was said knows less, and says so in the last digits.
    assert runs[0] == pytest.approx(runs[1], abs=1e-5)


def test_a_pass_that_begins_where_another_stopped_comes_from_its_prompt(clip, seen):
    with Session(clip, tiny()) as session, Session(clip, tiny()) as whole:
        for one in (session, whole):
            one.add_mask("disc", 2, disc(2))
        track(session, "forward", max_frames=3)
        track(session, "backward")
        stepped = seen(session)
        assert np.array_equal(track(session, "forward", start=5)[7].ious, track(whole, "forward")[7].ious)
        # 3 and 4 once more: what was kept of them is gone.
        assert sorted(frame for _, frame in stepped) == [3, 4, 5, 6, 7]


def shown_while(session, frame, say):
    """Return what a pass shows during which something is said, when a frame has been shown."""
    shown = {}
    for masks in session.track():
        shown[masks.frame] = masks
        if masks.frame == frame:
            say()
    return shown


def test_what_is_said_while_a_pass_is_shown_holds_from_the_next_frame_on(session):
    session.add_mask("disc", 0, ball(0))
    track(session)
    shown = shown_while(session, 3, lambda: box(session, "disc", 3, disc(3)))
    assert [iou(shown[frame]["disc"], ball(frame)) > 0.8 for frame in range(4)] == [True] * 4
    assert [iou(shown[frame]["disc"], disc(frame)) > 0.8 for frame in range(4, FRAMES)] == [True] * (FRAMES - 4)


def test_what_is_taken_back_while_a_pass_is_shown_leaves_the_object_where_its_other_prompts_have_it(session):
    session.add_mask("disc", 0, disc(0))
    session.add_mask("disc", 6, ball(6))
    track(session)
    shown = shown_while(session, 2, lambda: session.clear("disc", 6))
    assert all(iou(shown[frame]["disc"], disc(frame)) > 0.8 for frame in range(FRAMES))


def test_what_was_done_when_the_caller_turns_away_is_kept(wiring, seen):
    wiring.add_click("dog", 0, 40, 40)
    stepped = seen(wiring)
    pass_under_way = wiring.track()
    first = [next(pass_under_way) for _ in range(4)]
    pass_under_way.close()
    assert sorted(frame for _, frame in stepped) == [1, 2, 3]
    assert answer(wiring.preview(3), "dog") == answer(first[3], "dog")
    assert wiring.preview(4).objects == ()
    track(wiring)
    assert stepped == {("dog", frame): 1 for frame in EVERY[1:]}


def test_progress_counts_every_frame_once_backward_and_forward(wiring):
    wiring.add_click("dog", 3, 40, 40)
    said = []
    track(wiring, progress=lambda *args: said.append(args))
    assert said == [(done, 3 + FRAMES) for done in range(1, 3 + FRAMES + 1)]


def test_a_preview_shows_what_is_known_now(wiring):
    wiring.add_click("dog", 3, 40, 40)
    assert wiring.preview(0).objects == ()
    assert wiring.preview(0).masks.shape == (0, HEIGHT, WIDTH)
    tracked = track(wiring)
    for frame in EVERY:
        assert np.array_equal(wiring.preview(frame).masks, tracked[frame].masks)


def test_logits_come_on_request_and_their_sign_is_the_mask(clip):
    with Session(clip, tiny(), keep_logits=True) as session, Session(clip, tiny()) as without:
        for one in (session, without):
            one.add_click("dog", 3, 40, 40)
            one.add_click("dog", 3, 50, 40)
        fresh, plain = track(session), track(without)
        again = track(session)
    for frame in EVERY:
        assert fresh[frame].logits.dtype == np.float32
        assert np.array_equal(fresh[frame].logits > 0, fresh[frame].masks)
        assert np.array_equal(fresh[frame].logits, again[frame].logits)
        assert plain[frame].logits is None


def test_one_picture_is_a_video_of_one_frame(clip):
    with Session(clip / "0.png", nano()) as session:
        box(session, "disc", 0, disc(0))
        [masks] = session.track()
    assert iou(masks["disc"], disc(0)) > 0.85


def test_the_official_rules_go_one_direction_a_call(clip):
    with Session(clip, tiny(), official=True) as session:
        session.add_click("dog", 0, 40, 40)
        with pytest.raises(BadPrompt, match="choose forward or backward"):
            session.track()
        assert list(track(session, "forward")) == EVERY
