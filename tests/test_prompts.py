"""What the four click strings mean, sentence by sentence, and how everything that cannot be meant is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from clips import FRAMES, ball, ball_at, disc, disc_at, iou, nano, write_folder
from PIL import Image

from masklet.errors import BadPrompt
from masklet.masks import decode_rle
from masklet.prompts import (
    LONGEST_NAME,
    MOST_CHARACTERS,
    MOST_POINTS,
    Box,
    Click,
    NamedClick,
    Prompt,
    check_clicks,
    check_prompts,
    format_clicks,
    gather,
    parse_box,
    parse_clicks,
    parse_mask,
)
from masklet.request import Request
from masklet.segment import segment_video

SIZE = {"height": 96, "width": 128, "frame_count": 8}


def rows(*strings):
    """Read the strings and return each row as object, frame, x, y, positive."""
    return [(c.object, c.frame, c.x, c.y, c.positive) for c in parse_clicks(*strings).clicks]


def prompts(*strings, others=()):
    """Read the strings and return what is said by object and frame, as (x, y, positive)."""
    said, _ = gather(parse_clicks(*strings).clicks, others)
    return {(p.object, p.frame): [(c.x, c.y, c.positive) for c in p.clicks] for p in said}


MEANINGS = {
    "spaces are ignored everywhere": (
        ("[ 1 , 2 ] ,\n[3\t,1 0]", " 1 , 0", "0 ,\u00a05", "d o g , cat"),
        [("dog", 0, 1, 2, True), ("cat", 5, 3, 10, False)],
    ),
    "coordinates may be integers or decimals": (
        ("[12,3],[12.5,.25],[1e2,007]", "1", "0", "dog"),
        [("dog", 0, 12, 3, True), ("dog", 0, 12.5, 0.25, True), ("dog", 0, 100, 7, True)],
    ),
    "the number of pairs is the number of points": (
        ("[1,1],[2,2],[3,3]", "1,1,1", "0,1,2", "a,b,c"),
        [("a", 0, 1, 1, True), ("b", 1, 2, 2, True), ("c", 2, 3, 3, True)],
    ),
    "of fewer labels the last repeats, they do not start again": (
        ("[1,1],[2,2],[3,3],[4,4]", "1,0", "0", "dog"),
        [("dog", 0, 1, 1, True), ("dog", 0, 2, 2, False), ("dog", 0, 3, 3, False), ("dog", 0, 4, 4, False)],
    ),
    "of fewer frames the last repeats": (
        ("[1,1],[2,2],[3,3]", "1", "0,150", "dog"),
        [("dog", 0, 1, 1, True), ("dog", 150, 2, 2, True), ("dog", 150, 3, 3, True)],
    ),
    "without labels every point is on its object, without frames on frame 0": (
        ("[1,1],[2,2]", "", " ", "dog"),
        [("dog", 0, 1, 1, True), ("dog", 0, 2, 2, True)],
    ),
    "without ids every point is its own object": (
        ("[1,1],[2,2],[3,3]", "1", "0,0,4", ""),
        [("object_1", 0, 1, 1, True), ("object_2", 0, 2, 2, True), ("object_3", 4, 3, 3, True)],
    ),
    "of fewer ids the last repeats": (
        ("[1,1],[2,2],[3,3]", "1", "0", "dog,cat"),
        [("dog", 0, 1, 1, True), ("cat", 0, 2, 2, True), ("cat", 0, 3, 3, True)],
    ),
    "ids are names, even where they are numbers": (
        ("[1,1],[2,2],[3,3]", "1,1,0", "0", "1,2,2"),
        [("1", 0, 1, 1, True), ("2", 0, 2, 2, True), ("2", 0, 3, 3, False)],
    ),
    "names of any language are names": (
        ("[1,1],[2,2],[3,3]", "1", "0", "پرنده‌ها,猫,🧑‍🌾"),  # two of them need a joiner that cannot be seen
        [("پرنده‌ها", 0, 1, 1, True), ("猫", 0, 2, 2, True), ("🧑‍🌾", 0, 3, 3, True)],
    ),
    "one point as JSON.stringify writes it": (("[12,34]",), [("object_1", 0, 12, 34, True)]),
    "points as JSON.stringify writes a list of them": (
        (json.dumps([[100, 200], [300.5, 400]]),),
        [("object_1", 0, 100, 200, True), ("object_2", 0, 300.5, 400, True)],
    ),
    "a minus zero is a zero": (("[-0,0]",), [("object_1", 0, 0, 0, True)]),
}


@pytest.mark.parametrize(("strings", "expected"), MEANINGS.values(), ids=MEANINGS)
def test_the_strings_mean(strings, expected):
    assert rows(*strings) == expected


@pytest.mark.parametrize(
    ("strings", "notes"),
    [
        (("[1,1]", "1", "0", "dog"), []),
        (("[1,1],[2,2]", "1", "0", "dog,cat"), []),
        (("[1,1]",), ["click_object_ids is empty: every click is its own object, object_1"]),
        (("[1,1],[2,2]",), ["click_object_ids is empty: every click is its own object, object_1 to object_2"]),
        (
            ("[1,1],[2,2],[3,3]", "1,0", "0,1", "dog"),
            [
                f"{field} for 3 points: the last one is repeated"
                for field in ("click_labels has 2 values", "click_frames has 2 values", "click_object_ids has 1 value")
            ],
        ),
    ],
)
def test_what_was_filled_in_is_said(strings, notes):
    assert list(parse_clicks(*strings).notes) == notes


# The worked examples of the model's page, with numbers of our own.


def test_two_birds_with_one_click_each_are_two_objects():
    strings = ("[120,80],[430,95]", "1,1", "0,0", "bird_1,bird_2")
    assert prompts(*strings) == {("bird_1", 0): [(120, 80, True)], ("bird_2", 0): [(430, 95, True)]}


def test_a_dog_is_refined_by_several_points_that_go_in_together():
    strings = ("[300,200],[340,260],[420,210],[310,190]", "1,1,0,1", "0,0,0,25", "dog,dog,dog,dog")
    assert prompts(*strings) == {
        ("dog", 0): [(300, 200, True), (340, 260, True), (420, 210, False)],
        ("dog", 25): [(310, 190, True)],
    }


FIVE_POINTS = ("1,1,0,1,1", "0", "dog,dog,background,cat,cat")


def test_five_points_are_a_dog_and_a_cat_and_neither_has_the_background():
    said, notes = gather(parse_clicks("[10,10],[20,10],[90,90],[50,50],[60,50]", *FIVE_POINTS).clicks)
    assert [(p.object, p.frame, [(c.x, c.positive) for c in p.clicks]) for p in said] == [
        ("dog", 0, [(10, True), (20, True), (90, False)]),
        ("cat", 0, [(90, False), (50, True), (60, True)]),
    ]
    assert notes == ("'background' has no positive click: its clicks say what the other objects are not",)


# Objects


def test_what_is_never_clicked_positively_is_not_an_object_on_any_frame():
    strings = ("[1,1],[2,2],[3,3],[4,4]", "1,0,0,1", "0,0,7,7", "dog,grass,sky,cat")
    assert prompts(*strings) == {
        ("dog", 0): [(1, 1, True), (2, 2, False)],
        ("dog", 7): [(3, 3, False)],
        ("cat", 0): [(2, 2, False)],
        ("cat", 7): [(3, 3, False), (4, 4, True)],
    }


def test_an_object_with_a_box_is_an_object_whatever_its_clicks():
    [prompt] = gather(parse_clicks("[5,5]", "0", "3", "dog").clicks, [Prompt("dog", 3, box=Box(1, 1, 9, 9))])[0]
    assert (prompt.box, prompt.clicks) == (Box(1, 1, 9, 9), (Click(5, 5, False),))


def test_only_negative_clicks_on_a_frame_are_a_correction():
    said, _ = gather(parse_clicks("[1,1],[2,2],[3,3],[4,4]", "1,0,0,1", "0,5,6,6", "dog").clicks)
    assert {p.frame: p.is_correction for p in said} == {0: False, 5: True, 6: False}
    assert not Prompt("dog", 5, (Click(2, 2, False),), box=Box(1, 1, 9, 9)).is_correction
    assert not Prompt("dog", 5, mask=np.ones((2, 2), bool)).is_correction


def test_objects_come_in_the_order_of_first_mention_and_frames_ascending():
    strings = ("[1,1],[2,2],[3,3],[4,4]", "1", "9,4,2,0", "cat,dog,cat,ant")
    others = [Prompt("bee", 1, box=Box(1, 1, 9, 9)), Prompt("dog", 0, box=Box(1, 1, 9, 9))]
    assert list(prompts(*strings, others=others)) == [
        ("cat", 2),
        ("cat", 9),
        ("dog", 0),
        ("dog", 4),
        ("ant", 0),
        ("bee", 1),
    ]


MASK = Prompt("dog", 0, mask=np.ones((96, 128), bool))
NOWHERE = Prompt("dog", 3, mask=np.zeros((96, 128), bool))


def test_an_empty_mask_says_that_a_known_object_is_not_there():
    said, _ = gather(parse_clicks("[1,1]", "1", "0", "dog").clicks, [NOWHERE])
    assert [(p.frame, p.mask is None) for p in said] == [(0, True), (3, False)]


@pytest.mark.parametrize(
    ("strings", "others", "message"),
    [
        (("[1,1]", "0", "0", "dog"), (), "no click is positive, so there is no object: give at least one click the"),
        (("[1,1]", "1", "0", "dog"), (MASK,), "object 'dog' has a mask on frame 0 and a click of 'dog' is for it too"),
        (("[1,1]", "0", "0", "sky"), (MASK,), "object 'dog' has a mask on frame 0 and a click of 'sky' is for it too"),
        (("[1,1]", "1", "0", "cat"), (NOWHERE,), "'dog' has an empty mask on frame 3, and nothing else says where it"),
        (("[1,1]", "1", "0", "cat"), (MASK, MASK), "'dog' has two boxes or masks on frame 0: give one"),
        (
            (",".join(["[1,1]"] * 400), ",".join("1" * 200 + "0" * 200), "0", ",".join(f"o{i}" for i in range(400))),
            (),
            "200 clicks say what 200 objects are not, which makes 40200 clicks: the limit is 10000, give fewer",
        ),
    ],
)
def test_objects_that_cannot_be_meant_are_refused(strings, others, message):
    with pytest.raises(BadPrompt) as refusal:
        gather(parse_clicks(*strings).clicks, others)
    assert message in str(refusal.value)


# Whole jobs


def segment(tmp_path, *, network=None, **asked):
    """Run a job on the clip of the disc and the ball, and return its files' names and masks by object and frame."""
    clip = write_folder(tmp_path / "pictures")
    request = Request(str(clip), out=str(tmp_path / "out"), output_format="png", **asked)
    made = segment_video(request, network=network or nano())
    manifest = json.loads(made.manifest.read_text())
    assert [o["name"] for o in manifest["objects"]] == list(made.objects)
    masks = {name: {} for name in made.objects}
    for entry in manifest["frames"]:
        for found in entry["objects"]:
            if found["rle"] is not None:
                masks[found["object"]][entry["frame"]] = decode_rle(found["rle"])
    return [path.name for path in made.files], masks


def points(*places):
    return ",".join(f"[{x},{y}]" for x, y in places)


def test_the_five_points_give_two_masks_on_every_frame_whichever_was_clicked_first(tmp_path):
    (dx, dy), (bx, by) = disc_at(5), ball_at(5)
    places = points((dx, dy), (dx + 9, dy), (10, 85), (bx, by), (bx, by + 10))
    files, masks = segment(
        tmp_path,
        network=nano(448),
        click_coordinates=places,
        click_labels="1,1,0,1,1",
        click_frames="5",
        click_object_ids="dog,dog,background,cat,cat",
    )
    assert files == [f"frame_{frame:05d}.png" for frame in range(FRAMES)]
    assert list(masks) == ["dog", "cat"]
    for name, truth in (("dog", disc), ("cat", ball)):
        assert list(masks[name]) == list(range(FRAMES))
        assert min(iou(mask, truth(frame)) for frame, mask in masks[name].items()) > 0.85
    drawn = [np.asarray(Image.open(tmp_path / "out" / file)) > 0 for file in files]
    for frame, union in enumerate(drawn):  # masks lie on their own frames, not shifted by the clicked one
        assert np.array_equal(union, masks["dog"][frame] | masks["cat"][frame])


@pytest.mark.parametrize(("direction", "frames"), [("both", [0, 3, 6]), ("forward", [6]), ("backward", [0, 3])])
def test_files_are_numbered_by_the_source_one_an_interval(tmp_path, direction, frames):
    x, y = disc_at(5)
    files, masks = segment(
        tmp_path,
        click_coordinates=points((x, y), (x + 9, y)),
        click_frames="5",
        click_object_ids="disc",
        direction=direction,
        output_frame_interval=3,
    )
    assert files == [f"frame_{frame:05d}.png" for frame in frames]
    assert list(masks["disc"]) == frames


def test_a_correction_is_applied_with_memory_when_tracking_gets_there(tmp_path):
    Image.fromarray(disc(0) | ball(0)).save(tmp_path / "both.png")
    _, masks = segment(
        tmp_path,
        network=nano(448),
        masks=(f"both:0:{tmp_path / 'both.png'}",),
        click_coordinates=points(ball_at(4)),
        click_labels="0",
        click_frames="4",
        click_object_ids="both",
    )
    seen = {frame: (mask[disc(frame)].mean(), mask[ball(frame)].mean()) for frame, mask in masks["both"].items()}
    assert min(seen[3]) > 0.9
    assert seen[4][0] > 0.9, "a fresh start from a negative click alone would have nothing of the disc"
    assert seen[4][1] < 0.1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"click_coordinates": "[1,1],[128,1]"}, "click_coordinates[1]: x = 128 is outside the frame; choose 0..127"),
        (
            {"click_coordinates": "[1,1]", "click_frames": "8"},
            "click_frames[0] = 8, but the video has 8 frames: choose one of 0..7",
        ),
        ({"boxes": ("dog:0:1,1,200,20",)}, "object 'dog', frame 0, box: 1,1,200,20 leaves the frame"),
        ({}, "nothing says where an object is: give click_coordinates (--click-coordinates) such as [64,48], a box"),
    ],
)
def test_a_prompt_outside_the_video_is_refused_and_nothing_is_made(tmp_path, asked, message):
    with pytest.raises(BadPrompt) as refusal:
        segment(tmp_path, **asked)
    assert message in str(refusal.value)
    assert not (tmp_path / "out").exists()


# Refusals: each names the position, the value, the limit and the way out.


def many(count, item="[1,1]"):
    return ",".join([item] * count)


REFUSED = [
    ("", "click_coordinates is empty: give at least one point, such as [320,180]"),
    (" \n\t", "click_coordinates is empty: give at least one point"),
    ("5,5", "click_coordinates: '5' at character 1 (spaces not counted), where '[' belongs; write [x,y],[x,y]"),
    ("[1,2", "the bracket at character 1 (spaces not counted) is never closed; write [x,y],[x,y]"),
    ("[1, 2], [3", "the bracket at character 7 (spaces not counted) is never closed"),
    ("[1,2]]", "']' at character 6 (spaces not counted), where ',' or the end belongs"),
    ("[1,[2]", "'[' at character 4 (spaces not counted), where a number or ']' belongs"),
    ("[1,2],", "the end at character 7 (spaces not counted), where '[' belongs"),
    ("[1,2][3,4]", "'[' at character 6 (spaces not counted), where ',' or the end belongs"),
    ("[1,2];[3,4]", "';' at character 6 (spaces not counted), where ',' or the end belongs"),
    ("[[1,2],[3,4]", "'[' at character 2 (spaces not counted), where a number or ']' belongs"),
    ("[[1,2],x,[3,4]]", "'x' at character 8 (spaces not counted), where '[' belongs"),
    ("[[]]", "click_coordinates[0] = '[]' has 0 numbers: give 2, as [x,y]"),
    ("[1,2],[3]", "click_coordinates[1] = '[3]' has 1 number: give 2, as [x,y]"),
    ("[1,2,3]", "click_coordinates[0] = '[1,2,3]' has 3 numbers: give 2, as [x,y]"),
    ("[1,2],[,4]", "click_coordinates[1]: '' is not a finite number; use pixels, such as 12 or 12.5"),
    ("[1,2],[3,nan]", "click_coordinates[1]: 'nan' is not a finite number"),
    ("[inf,2]", "click_coordinates[0]: 'inf' is not a finite number"),
    ("[1,-Infinity]", "click_coordinates[0]: '-Infinity' is not a finite number"),
    ("[1e309,2]", "click_coordinates[0]: '1e309' is not a finite number"),
    ("[1_000,2]", "click_coordinates[0]: '1_000' is not a finite number"),
    ("[１２,2]", "click_coordinates[0]: '１２' is not a finite number"),
    ("[0x10,2]", "click_coordinates[0]: '0x10' is not a finite number"),
    ("[1,2\0]", r"click_coordinates[0]: '2\x00' is not a finite number"),
    ("[1,\u202e2]", r"click_coordinates[0]: '\u202e2' is not a finite number"),
    ("[1,x]", "click_coordinates[0]: 'x' is not a finite number"),
    (f"[{'9' * 5000},1]", f"click_coordinates[0]: '{'9' * 37}...' is not a finite number"),
    (many(MOST_POINTS + 1), "click_coordinates has 10001 points: the limit is 10000"),
    ("[" * (MOST_CHARACTERS + 1), "click_coordinates has 100001 characters: the limit is 100000"),
    (("[1,1]", "2"), "click_labels[0] = '2': use 1 for the object and 0 for what is not the object"),
    (("[1,1],[2,2]", "1,"), "click_labels[1] = '': use 1 for the object"),
    (("[1,1]", "-1"), "click_labels[0] = '-1': use 1"),
    (("[1,1]", "１"), "click_labels[0] = '１': use 1"),
    (("[1,1]", "1,0"), "click_labels has 2 values for 1 point: remove some or add points"),
    (("[1,1]", "1" * (MOST_CHARACTERS + 1)), "click_labels has 100001 characters: the limit is 100000"),
    (("[1,1]", "1", "0,1"), "click_frames has 2 values for 1 point: remove some or add points"),
    (("[1,1]", "1", "-1"), "click_frames[0] = '-1' is not a frame index: use 0, 1, 2, ..."),
    (("[1,1],[2,2]", "1", "0,1.5"), "click_frames[1] = '1.5' is not a frame index"),
    (("[1,1]", "1", "٣"), "click_frames[0] = '٣' is not a frame index"),
    (("[1,1]", "1", "²"), "click_frames[0] = '²' is not a frame index"),
    (("[1,1]", "1", "9" * 5000), f"click_frames[0] = '{'9' * 37}...' is not a frame index"),
    (("[1,1]", "1", "0", "dog,cat"), "click_object_ids has 2 values for 1 point"),
    (("[1,1],[2,2]", "1", "0", "dog,"), "click_object_ids[1] is empty: name every object, or none"),
    (("[1,1]", "1", "0", "do\0g"), r"click_object_ids[0] = 'do\x00g' holds '\x00', which cannot be shown: use letters"),
    (("[1,1]", "1", "0", "\u202egod"), r"click_object_ids[0] = '\u202egod' holds '\u202e', which cannot be shown"),
    (("[1,1]", "1", "0", "\ud800"), r"click_object_ids[0] = '\ud800' holds '\ud800', which cannot be shown"),
    (
        ("[1,1]", "1", "0", "x" * (LONGEST_NAME + 1)),
        f"click_object_ids[0] = '{'x' * 37}...' has 65 characters: the limit is 64",
    ),
]


@pytest.mark.parametrize(("strings", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_strings_that_cannot_be_meant_are_refused(strings, message):
    with pytest.raises(BadPrompt) as refusal:
        parse_clicks(*([strings] if isinstance(strings, str) else strings))
    assert message in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("click", "message"),
    [
        (NamedClick("dog", 8, 1, 1, True), "click_frames[1] = 8, but the video has 8 frames: choose one of 0..7"),
        (NamedClick("dog", 0, 128, 1, True), "click_coordinates[1]: x = 128 is outside the frame; choose 0..127"),
        (NamedClick("dog", 0, -0.5, 1, True), "click_coordinates[1]: x = -0.5 is outside the frame; choose 0..127"),
        (NamedClick("dog", 0, 1, 96, True), "click_coordinates[1]: y = 96 is outside the frame; choose 0..95"),
        (NamedClick("dog", 0, 1, float("nan"), True), "click_coordinates[1]: y = nan is outside the frame"),
    ],
)
def test_a_click_outside_the_video_is_named_by_its_place_in_the_strings(click, message):
    fine = NamedClick("dog", 7, 127.9, 95, True)
    check_clicks([fine], **SIZE)
    with pytest.raises(BadPrompt) as refusal:
        check_clicks([fine, click], **SIZE)
    assert message in str(refusal.value)


def say(frame=0, **said):
    return Prompt(said.pop("name", "dog"), frame, **said)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (say(), "object 'dog', frame 0: nothing is said; give a click, a box or a mask"),
        (say(8, clicks=(Click(1, 1),)), "there is no such frame; choose one of 0..7, the video has 8 frames"),
        (say(-1, clicks=(Click(1, 1),)), "object 'dog', frame -1: there is no such frame"),
        (say(clicks=(Click(1, 1), Click(1, -3))), "frame 0, click 2: y = -3 is outside the frame; choose 0..95"),
        (say(box=Box(5, 5, 129, 9)), "box: 5,5,129,9 leaves the frame; choose x in 0..128 and y in 0..96"),
        (say(box=Box(5, 5, float("inf"), 9)), "box: 5,5,inf,9 leaves the frame"),
        (say(box=Box(5, 5, float("nan"), 9)), "box: 5,5,nan,9 leaves the frame"),
        (say(box=Box(9, 5, 5, 9)), "box: 9,5,5,9 is empty; give the top left corner first, then the bottom right one"),
        (say(box=Box(5, 5, 9, 5)), "box: 5,5,9,5 is empty"),
        (
            say(mask=np.ones((9, 9), bool)),
            "the mask is bool of shape (9, 9), but must be bool of the video's shape, (96",
        ),
        (say(mask=np.ones((96, 128), np.uint8)), "the mask is uint8 of shape (96, 128), but must be bool"),
        (say(name="", clicks=(Click(1, 1),)), "object name is empty: name every object"),
        (say(name="a\nb", clicks=(Click(1, 1),)), r"object name = 'a\nb' holds '\n', which cannot be shown"),
        (say(name="x" * (LONGEST_NAME + 1), clicks=(Click(1, 1),)), "has 65 characters: the limit is 64"),
    ],
)
def test_a_prompt_that_does_not_fit_the_video_is_refused(prompt, message):
    with pytest.raises(BadPrompt) as refusal:
        check_prompts([say(clicks=(Click(1, 1),)), prompt], **SIZE)
    assert message in str(refusal.value)


def test_prompts_at_the_very_edge_fit():
    check_prompts(
        [
            say(7, clicks=(Click(0, 0), Click(127.99, 95.99))),
            say(box=Box(0, 0, 128, 96)),
            say(mask=np.ones((96, 128), bool), name="a long name, with a comma"),
        ],
        **SIZE,
    )


def test_a_stream_has_no_last_frame():
    far = say(10**9, clicks=(Click(1, 1),))
    check_prompts([far], height=96, width=128, frame_count=None)
    with pytest.raises(BadPrompt, match="frame -1: there is no such frame; choose one of 0 or more"):
        check_prompts([say(-1, clicks=(Click(1, 1),))], height=96, width=128, frame_count=None)


# Boxes and masks as the command line takes them


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog:0:10,20,30,40", ("dog", 0, Box(10, 20, 30, 40))),
        (" big dog : 12 : 1.5, 2.5 ,3e1 , 4 0", ("bigdog", 12, Box(1.5, 2.5, 30, 40))),
    ],
)
def test_a_box_is_read(text, expected):
    prompt = parse_box(text)
    assert (prompt.object, prompt.frame, prompt.box) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog:0:mask.png", ("dog", 0, Path("mask.png"))),
        ("dog:0: mask.png ", ("dog", 0, Path("mask.png"))),
        ("big dog: 7 :C:/my masks/a:b.png", ("bigdog", 7, Path("C:/my masks/a:b.png"))),
    ],
)
def test_a_mask_is_read(text, expected):
    assert parse_mask(text) == expected


BAD_BOXES = [
    ("", "box '' is not of the form NAME:FRAME:X0,Y0,X1,Y1"),
    ("dog:0", "box 'dog:0' is not of the form NAME:FRAME:X0,Y0,X1,Y1"),
    (":0:1,2,3,4", "box ':0:1,2,3,4' is not of the form"),
    ("dog:0: ", "box 'dog:0: ' is not of the form"),
    ("dog:x:1,2,3,4", "box 'dog:x:1,2,3,4': frame = 'x' is not a frame index"),
    ("dog:-1:1,2,3,4", "frame = '-1' is not a frame index: use 0, 1, 2, ..."),
    ("dog:0:1,2,3", "box 'dog:0:1,2,3' has 3 numbers, but needs 4: NAME:FRAME:X0,Y0,X1,Y1"),
    ("dog:0:1,2,3,4,5", "has 5 numbers, but needs 4"),
    ("dog:0:1,2,3,nan", "box 'dog:0:1,2,3,nan', number 4: 'nan' is not a finite number"),
    ("dog:0:1,2,٣,4", "number 3: '٣' is not a finite number"),
    ("do\0g:0:1,2,3,4", r"name = 'do\x00g' holds '\x00', which cannot be shown"),
    (f"dog:0:{'9' * 5000},2,3,4", "...', number 1: '9999"),
    (f"dog:0:{'1,' * 100_000}", "box has 200000 characters: the limit is 100000"),
]


@pytest.mark.parametrize(("text", "message"), BAD_BOXES, ids=[message[:60] for _, message in BAD_BOXES])
def test_a_box_that_cannot_be_meant_is_refused(text, message):
    with pytest.raises(BadPrompt) as refusal:
        parse_box(text)
    assert message in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog", "mask 'dog' is not of the form NAME:FRAME:FILE"),
        ("dog:0:", "mask 'dog:0:' is not of the form NAME:FRAME:FILE"),
        ("dog:1.0:mask.png", "mask 'dog:1.0:mask.png': frame = '1.0' is not a frame index"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(text, message):
    with pytest.raises(BadPrompt) as refusal:
        parse_mask(text)
    assert message in str(refusal.value)


# Writing


def test_rows_are_written_as_short_as_they_read():
    clicks = [NamedClick("dog", 0, 12.0, 12.5, True), NamedClick("cat", 9, 0.1, 1e15, False)]
    assert format_clicks(clicks) == ("[12,12.5],[0.1,1000000000000000.0]", "1,0", "0,9", "dog,cat")


def test_numbers_of_numpy_are_written_as_numbers():
    click = NamedClick("dog", np.int64(3), np.float64(12.5), np.float32(0.25), np.bool_(True))
    assert format_clicks([click]) == ("[12.5,0.25]", "1", "3", "dog")


@pytest.mark.parametrize(
    ("click", "message"),
    [
        (
            NamedClick("big dog", 0, 1, 1, True),
            "object name 'big dog' cannot be in a click string: use no spaces and no",
        ),
        (NamedClick("a,b", 0, 1, 1, True), "object name 'a,b' cannot be in a click string"),
        (NamedClick("", 0, 1, 1, True), "name of click 0 is empty"),
        (NamedClick("a\0", 0, 1, 1, True), "cannot be shown"),
        (NamedClick("dog", -1, 1, 1, True), "frame of click 0 = '-1' is not a frame index"),
        (NamedClick("dog", 0, float("nan"), 1, True), "click 0: 'nan' is not a finite number"),
        (NamedClick("dog", 0, 1, float("inf"), True), "click 0: 'inf' is not a finite number"),
    ],
)
def test_what_would_not_be_read_back_is_not_written(click, message):
    with pytest.raises(BadPrompt) as refusal:
        format_clicks([click])
    assert message in str(refusal.value)
