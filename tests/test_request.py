"""What a person can ask for: every field, its default, its choices and its limits, as the hosted model has them."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from masklet.errors import BadPrompt
from masklet.request import Request, options

HOSTED = {
    "input_video": (str, ..., (), None),
    "click_coordinates": (str, "", (), None),
    "click_labels": (str, "1", (), None),
    "click_frames": (str, "0", (), None),
    "click_object_ids": (str, "", (), None),
    "mask_type": (str, "binary", ("binary", "highlighted", "greenscreen"), None),
    "annotation_type": (str, "mask", ("mask", "box", "both"), None),
    "output_video": (bool, False, (), None),
    "video_fps": (int, 30, (), (1, 60)),
    "output_format": (str, "webp", ("webp", "jpg", "png"), None),
    "output_quality": (int, 80, (), (0, 100)),
    "output_frame_interval": (int, 1, (), (1, None)),
}
"""The twelve inputs of `meta/sam-2-video`, version 33432afd: name, kind, default, choices, limits."""

OURS = {
    "boxes": (tuple, (), (), None),
    "masks": (tuple, (), (), None),
    "model": (str, "nano", (), None),
    "device": (str, "auto", (), None),
    "dtype": (str, "auto", (), None),
    "direction": (str, "both", ("both", "forward", "backward"), None),
    "out": (str, "", (), None),
    "per_object": (bool, False, (), None),
    "source_timing": (bool, False, (), None),
}

EVERYTHING = Request(
    "dog.mp4",
    click_coordinates="[1,2]",
    click_labels="1,0",
    click_frames="3",
    click_object_ids="dog",
    mask_type="highlighted",
    annotation_type="both",
    output_video=True,
    video_fps=24,
    output_format="png",
    output_quality=100,
    output_frame_interval=5,
    boxes=("dog:0:1,2,3,4", "cat:0:1,2,3,4"),
    masks=("cow:0:cow.png",),
    model="sam2.1-tiny",
    device="cpu",
    dtype="float32",
    direction="backward",
    out="here",
    per_object=True,
    source_timing=True,
)


def test_the_fields_are_the_hosted_models_and_then_ours_in_order():
    found = {o.name: (o.kind, o.default, o.choices, o.limits) for o in options()}
    _, *rest = list(HOSTED.items()) + list(OURS.items())
    assert list(found) == [*HOSTED, *OURS] == [field.name for field in fields(Request)]
    assert list(found.items())[1:] == rest
    assert found["input_video"][0] is str


def test_only_the_video_must_be_named():
    request = Request("dog.mp4")
    assert request.input_video == "dog.mp4"
    assert {o.name: getattr(request, o.name) for o in options()[1:]} == {o.name: o.default for o in options()[1:]}
    with pytest.raises(TypeError, match="input_video"):
        Request()


def test_every_field_takes_what_is_asked():
    assert all(getattr(EVERYTHING, o.name) != o.default for o in options())


def test_flags_are_the_fields_but_for_what_may_be_given_several_times():
    flags = {o.name: o.flag for o in options()}
    assert (flags["boxes"], flags["masks"]) == ("--box", "--mask")
    others = {name: flag for name, flag in flags.items() if name not in ("boxes", "masks")}
    assert others == {name: "--" + name.replace("_", "-") for name in others}


def test_every_field_is_explained_in_a_sentence():
    assert [o.name for o in options() if not (o.help.endswith(".") and len(o.help) > 10)] == []


CHOSEN = [(o.name, choice) for o in options() for choice in o.choices]
LIMITED = [(o, limit) for o in options() if o.limits for limit in o.limits if limit is not None]


@pytest.mark.parametrize(("name", "choice"), CHOSEN)
def test_every_choice_is_taken(name, choice):
    assert getattr(Request("dog.mp4", **{name: choice}), name) == choice


@pytest.mark.parametrize(("option", "limit"), LIMITED, ids=[f"{o.name} {limit}" for o, limit in LIMITED])
def test_a_limit_itself_is_taken_and_one_beyond_is_not(option, limit):
    assert getattr(Request("dog.mp4", **{option.name: limit}), option.name) == limit
    beyond = limit - 1 if limit == option.limits[0] else limit + 1
    bounds = "at least 1" if option.limits[1] is None else f"{option.limits[0]}..{option.limits[1]}"
    with pytest.raises(BadPrompt, match=rf"{option.name} = {beyond} is out of range: choose {bounds}$"):
        Request("dog.mp4", **{option.name: beyond})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mask_type": "Binary"}, "mask_type = 'Binary' is not known: choose one of binary, highlighted, greenscreen"),
        ({"output_format": "jpeg"}, "output_format = 'jpeg' is not known: choose one of webp, jpg, png"),
        ({"direction": ""}, "direction = '' is not known: choose one of both, forward, backward"),
        ({"annotation_type": None}, "annotation_type = None is NoneType, but must be str"),
        ({"video_fps": 29.97}, "video_fps = 29.97 is float, but must be int"),
        ({"video_fps": True}, "video_fps = True is bool, but must be int"),
        ({"video_fps": "30"}, "video_fps = '30' is str, but must be int"),
        ({"output_video": 1}, "output_video = 1 is int, but must be bool"),
        ({"input_video": Path("dog.mp4")}, "is PosixPath, but must be str"),
        ({"click_coordinates": [[1, 2]]}, "click_coordinates = [[1, 2]] is list, but must be str"),
        ({"boxes": ["dog:0:1,2,3,4"]}, "is list, but must be tuple of str"),
        ({"boxes": "dog:0:1,2,3,4"}, "boxes = 'dog:0:1,2,3,4' is str, but must be tuple of str"),
        ({"masks": ("a:0:a.png", 3)}, "masks[1] = 3 is int, but must be str"),
        ({"mask_type": "x" * 10_000}, "xxx' is not known: choose one of"),
    ],
)
def test_another_kind_or_another_word_is_refused(asked, message):
    with pytest.raises(BadPrompt) as refusal:
        Request(**{"input_video": "dog.mp4"} | asked)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 200


def test_what_was_asked_is_json_and_makes_the_request_again():
    asked = EVERYTHING.asked()
    assert list(asked) == [o.name for o in options()]
    read = json.loads(json.dumps(asked, allow_nan=False))
    assert (
        Request(**{key: tuple(value) if isinstance(value, list) else value for key, value in read.items()})
        == EVERYTHING
    )


def test_a_request_cannot_be_changed_only_replaced():
    with pytest.raises(FrozenInstanceError):
        EVERYTHING.video_fps = 10
    assert replace(EVERYTHING, video_fps=10).video_fps == 10
    with pytest.raises(BadPrompt):
        replace(EVERYTHING, video_fps=0)


def test_reading_what_can_be_asked_loads_neither_numpy_nor_torch():
    script = "import sys, masklet.request; print(*{'numpy', 'torch', 'av', 'PIL'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
