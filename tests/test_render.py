"""Pictures: what each mask type holds pixel by pixel, what is left alone, and colours that everybody can tell apart."""

from itertools import combinations

import numpy as np
import pytest

from masklet.errors import BadPrompt
from masklet.masks import FrameMasks
from masklet.render import ANNOTATION_TYPES, GREEN, MASK_TYPES, OKABE_ITO, assign_colours, render

HEIGHT, WIDTH = 120, 200


def picture(height=HEIGHT, width=WIDTH):
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rgb.setflags(write=False)
    return rgb


def rectangle(x0, y0, x1, y1, height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def frame_masks(**objects):
    stack = np.stack(list(objects.values()))
    ones = np.ones(len(objects), np.float32)
    return FrameMasks(3, 0.1, tuple(objects), stack, object_scores=ones, ious=ones)


DOG, CAT = rectangle(40, 50, 80, 90), rectangle(70, 60, 120, 80)
NOTHING = np.zeros((HEIGHT, WIDTH), bool)
BOTH = frame_masks(dog=DOG, cat=CAT)
COLOURS = assign_colours(("dog", "cat"))


def highlighted(masks, annotation_type, rgb=None, colours=COLOURS):
    rgb = picture() if rgb is None else rgb
    return render(rgb, masks, colours=colours, mask_type="highlighted", annotation_type=annotation_type)


def test_binary_is_the_union_of_all_objects_in_one_channel():
    drawn = render(picture(), BOTH, colours=COLOURS)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, np.where(DOG | CAT, 255, 0))


def test_greenscreen_is_the_frame_where_an_object_is_and_pure_green_elsewhere():
    drawn = render(picture(), BOTH, colours=COLOURS, mask_type="greenscreen")
    assert np.array_equal(drawn[DOG | CAT], picture()[DOG | CAT])
    assert (drawn[~(DOG | CAT)] == GREEN).all()


def test_a_highlighted_mask_is_half_colour_inside_and_a_line_of_full_colour_at_the_edge():
    drawn = highlighted(frame_masks(dog=DOG), "mask")
    colour = np.array(COLOURS["dog"], np.uint8)
    assert (drawn[50, 40:80] == colour).all()
    inner = np.s_[52:88, 42:78]
    assert np.array_equal(drawn[inner], (picture()[inner] >> 1) + (colour >> 1))


def test_outside_the_highlighted_mask_only_one_dark_line_is_touched():
    drawn = highlighted(frame_masks(dog=DOG), "mask")
    touched = (drawn != picture()).any(axis=2)
    assert not touched[~rectangle(39, 49, 81, 91)].any()
    assert np.array_equal(drawn[49, 40:80], picture()[49, 40:80] >> 1)


def test_an_object_that_leaves_the_picture_has_no_line_along_its_edge():
    drawn = highlighted(frame_masks(dog=rectangle(0, 0, 40, HEIGHT)), "mask")
    colour = np.array(COLOURS["dog"], np.uint8)
    assert np.array_equal(drawn[:, 0], (picture()[:, 0] >> 1) + (colour >> 1))
    assert (drawn[:, 39] == colour).all()


def test_a_box_frames_the_mask_from_outside_and_leaves_its_pixels_alone():
    drawn = highlighted(frame_masks(dog=DOG), "box")
    assert np.array_equal(drawn[DOG], picture()[DOG])
    for line in (drawn[90, 39:81], drawn[49:91, 39], drawn[49:91, 80]):
        assert (line == COLOURS["dog"]).all()


@pytest.mark.parametrize(("annotation_type", "filled", "framed"), [("mask", 1, 0), ("box", 0, 1), ("both", 1, 1)])
def test_annotation_type_chooses_fill_and_box(annotation_type, filled, framed):
    drawn = highlighted(frame_masks(dog=DOG), annotation_type)
    assert np.array_equal(drawn[70, 60], picture()[70, 60]) == (not filled)
    assert (drawn[90, 40:80] == COLOURS["dog"]).all() == framed


def test_each_box_carries_its_name_in_its_colour_above_it():
    plain = highlighted(frame_masks(dog=DOG), "box")
    tag = plain[36:49, 39:58].reshape(-1, 3)
    assert (tag == COLOURS["dog"]).all(axis=1).mean() > 0.4
    assert (tag < 60).all(axis=1).any(), "black letters on orange"
    other = highlighted(frame_masks(cow=DOG), "box", colours={"cow": COLOURS["dog"]})
    assert not np.array_equal(other, plain)


@pytest.mark.parametrize("mask_type", ["binary", "greenscreen"])
def test_annotation_type_acts_only_with_highlighted(mask_type):
    drawn = [
        render(picture(), BOTH, colours=COLOURS, mask_type=mask_type, annotation_type=kind) for kind in ANNOTATION_TYPES
    ]
    assert all(np.array_equal(one, drawn[0]) for one in drawn)


@pytest.mark.parametrize("annotation_type", ANNOTATION_TYPES)
def test_an_absent_object_is_not_drawn(annotation_type):
    assert np.array_equal(
        highlighted(frame_masks(dog=DOG, cat=NOTHING), annotation_type),
        highlighted(frame_masks(dog=DOG), annotation_type),
    )


@pytest.mark.parametrize(
    ("mask_type", "expected"),
    [
        ("binary", np.zeros((HEIGHT, WIDTH))),
        ("highlighted", picture()),
        ("greenscreen", np.full(picture().shape, GREEN)),
    ],
)
def test_with_all_absent_the_picture_is_black_the_frame_or_green(mask_type, expected):
    masks = frame_masks(dog=NOTHING, cat=NOTHING)
    drawn = render(picture(), masks, colours=COLOURS, mask_type=mask_type, annotation_type="both")
    assert np.array_equal(drawn, expected)


def test_no_objects_at_all_draw_like_all_absent():
    none = np.zeros(0, np.float32)
    masks = FrameMasks(0, 0.0, (), np.zeros((0, HEIGHT, WIDTH), bool), object_scores=none, ious=none)
    assert not render(picture(), masks, colours={}).any()
    assert np.array_equal(highlighted(masks, "both", colours={}), picture())


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_the_answer_is_the_callers_own_array(mask_type):
    rgb = np.array(picture())
    drawn = render(rgb, frame_masks(dog=NOTHING), colours=COLOURS, mask_type=mask_type)
    drawn[...] = 7
    assert np.array_equal(rgb, picture())


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (300, 2), (7, 7), (40, 9)])
@pytest.mark.parametrize("annotation_type", ANNOTATION_TYPES)
def test_pictures_of_any_size_are_drawn(shape, annotation_type):
    full = np.ones(shape, bool)
    drawn = highlighted(frame_masks(dog=full), annotation_type, rgb=picture(*shape))
    assert drawn.shape == (*shape, 3)


def test_the_line_grows_with_the_picture():
    def line_px(height, width):
        mask = rectangle(width // 4, height // 4, width // 2, height // 2, height, width)
        row = highlighted(frame_masks(dog=mask), "mask", rgb=np.zeros((height, width, 3), np.uint8))[height // 3]
        return int((row == COLOURS["dog"]).all(axis=1).sum()) // 2

    assert [line_px(360, 640), line_px(720, 1280), line_px(1080, 1920)] == [1, 3, 4]


@pytest.mark.parametrize("name", ["", " ", "\0", "a\nb", "犬", "🐕", "x" * 10_000, "\udcff", "ä" * 500])
@pytest.mark.parametrize("x0", [0, 60, 190])
def test_any_name_is_drawn_inside_the_picture(name, x0):
    masks = frame_masks(**{name: rectangle(x0, 0, x0 + 10, 9)})
    drawn = highlighted(masks, "box", colours=assign_colours([name]))
    assert drawn.shape == (HEIGHT, WIDTH, 3)


def test_a_name_in_a_script_the_font_lacks_is_shown_as_its_number():
    masks = frame_masks(**{"犬": DOG})
    same = frame_masks(**{"object 1": DOG})
    assert np.array_equal(
        highlighted(masks, "box", colours=assign_colours(["犬"])),
        highlighted(same, "box", colours=assign_colours(["object 1"])),
    )


@pytest.mark.parametrize(("name", "plain"), [("Zoë", "Zoe"), ("Cafe\u0301", "Cafe"), ("Åse Ñandú", "Ase Nandu")])
def test_a_name_is_drawn_without_the_accents_that_the_font_lacks(name, plain):
    drawn = [highlighted(frame_masks(**{n: DOG}), "box", colours=assign_colours([n])) for n in (name, plain)]
    assert np.array_equal(*drawn)


@pytest.mark.parametrize(
    ("rgb", "options", "words"),
    [
        (picture(HEIGHT, 7), {}, ["(120, 7, 3)", "200 wide"]),
        (picture().astype(np.float32), {}, ["float32", "uint8"]),
        (picture(), {"mask_type": "red"}, ["mask_type = 'red'", "binary, highlighted, greenscreen"]),
        (
            picture(),
            {"mask_type": "highlighted", "annotation_type": "bbox"},
            ["annotation_type = 'bbox'", "mask, box, both"],
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_value_and_the_choice(rgb, options, words):
    with pytest.raises(BadPrompt) as refused:
        render(rgb, BOTH, colours=COLOURS, **options)
    assert all(word in str(refused.value) for word in words)


def test_colours_are_okabe_ito_first_without_black():
    assert tuple(assign_colours([f"object_{n}" for n in range(7)]).values()) == OKABE_ITO
    assert (0, 0, 0) not in OKABE_ITO


def test_a_later_object_recolours_nobody():
    names = [f"object_{n}" for n in range(40)]
    assert list(assign_colours(names).items())[:11] == list(assign_colours(names[:11]).items())


def test_two_hundred_objects_have_two_hundred_colours():
    assert len(set(assign_colours([str(n) for n in range(200)]).values())) == 200


def test_colours_go_on_when_all_are_used():
    assert len(assign_colours([str(n) for n in range(4000)])) == 4000


# Viénot, Brettel, Mollon (1999), on linear RGB: another model of the same eyes than the one that chose the colours.
EYES = {
    "usual": np.eye(3),
    "no red cones": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "no green cones": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, eye):
    linear = EYES[eye] @ (np.array(colour) / 255) ** 2.2
    x, y, z = np.cbrt(XYZ @ linear.clip(0, 1) / (0.9505, 1.0, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_twenty_colours_stay_apart_for_every_eye(eye):
    seen = [lab(colour, eye) for colour in assign_colours([str(n) for n in range(20)]).values()]
    closest = min(np.linalg.norm(one - other) for one, other in combinations(seen, 2))
    assert closest > 5, "2.3 is the least difference that people notice (CIE 1976)"
