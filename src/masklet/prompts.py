"""What a person says about objects: clicks, boxes and masks as values, and the four click strings to and fro.

`docs/prompts.md` says what the strings mean. Coordinates are displayed pixels of the source, origin top-left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from masklet.errors import BadPrompt

T = TypeVar("T")

MOST_CHARACTERS = 100_000
MOST_POINTS = 10_000
LONGEST_NUMBER = 32
"""Characters of one number; more digits say nothing about a pixel and cost time to read."""


@dataclass(frozen=True)
class Click:
    """A point on the object, or, not `positive`, on what is not the object."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """A rectangle around the object."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, eq=False)
class Prompt:
    """Everything a person said about one object on one frame."""

    object: str
    frame: int
    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    mask: NDArray[np.bool_] | None = None
    """`[h, w]`, source size."""

    @property
    def is_correction(self) -> bool:
        """Whether it only says where the object is not, which means nothing without an earlier mask."""
        return self.box is None and self.mask is None and not any(click.positive for click in self.clicks)


@dataclass(frozen=True)
class NamedClick:
    """One row of the click strings."""

    object: str
    frame: int
    x: float
    y: float
    positive: bool


@dataclass(frozen=True)
class ClickTable:
    """The click strings as rows."""

    clicks: tuple[NamedClick, ...]
    notes: tuple[str, ...]
    """What was filled in, for the log."""


def parse_clicks(coordinates: str, labels: str = "1", frames: str = "0", object_ids: str = "") -> ClickTable:
    """Read the four strings of a request; raises only `BadPrompt`."""
    points = _points(coordinates)
    notes: list[str] = []
    signs = [_label(i, text) for i, text in enumerate(_items("click_labels", labels))]
    indices = [_frame(f"click_frames[{i}]", text) for i, text in enumerate(_items("click_frames", frames))]
    signs = _filled("click_labels", signs or [True], len(points), notes)
    indices = _filled("click_frames", indices or [0], len(points), notes)
    names = _names(object_ids)
    if names:
        names = _filled("click_object_ids", names, len(points), notes)
    else:
        names = [f"object_{i}" for i in range(1, len(points) + 1)]
        notes.append(f"click_object_ids is empty: every click is its own object, {_span(names)}")
    rows = zip(names, indices, points, signs, strict=True)
    return ClickTable(tuple(NamedClick(n, f, x, y, positive) for n, f, (x, y), positive in rows), tuple(notes))


def format_clicks(clicks: Sequence[NamedClick]) -> tuple[str, str, str, str]:
    """Write rows as the four strings, such that `parse_clicks` gives them back."""
    for click in clicks:
        if click.object != "".join(click.object.split()) or "," in click.object or not click.object:
            raise BadPrompt(f"object name {click.object!r} cannot be in a click string: use no spaces and no commas")
    return (
        ",".join(f"[{_plain(c.x)},{_plain(c.y)}]" for c in clicks),
        ",".join("1" if c.positive else "0" for c in clicks),
        ",".join(str(c.frame) for c in clicks),
        ",".join(c.object for c in clicks),
    )


def parse_box(text: str) -> Prompt:
    """Read a box prompt, `NAME:FRAME:X0,Y0,X1,Y1`."""
    name, frame, rest = _named("box", text, "NAME:FRAME:X0,Y0,X1,Y1")
    numbers = [_number(f"box {text!r}, number {i + 1}", part) for i, part in enumerate(rest.split(","))]
    if len(numbers) != 4:
        raise BadPrompt(f"box {text!r} has {len(numbers)} numbers, but needs 4: NAME:FRAME:X0,Y0,X1,Y1")
    return Prompt(name, frame, box=Box(*numbers))


def parse_mask(text: str) -> tuple[str, int, Path]:
    """Read a mask prompt, `NAME:FRAME:FILE`; the file's name may contain colons."""
    name, frame, rest = _named("mask", text, "NAME:FRAME:FILE")
    return name, frame, Path(rest)


def gather(clicks: Sequence[NamedClick], others: Sequence[Prompt] = ()) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """Make one prompt per object and frame, objects in the order of first mention, and notes for the log.

    An object that nothing positive was said about is background: its clicks are negative clicks of every other
    object, on their frames.
    """
    order = dict.fromkeys([click.object for click in clicks] + [prompt.object for prompt in others])
    real = {c.object for c in clicks if c.positive} | {p.object for p in others}
    objects = [name for name in order if name in real]
    if not objects:
        raise BadPrompt(
            "no click is positive, so there is no object: give at least one click the label 1, or a box or a mask"
        )
    prompts: dict[tuple[str, int], Prompt] = {}
    for prompt in others:
        key = (prompt.object, prompt.frame)
        if key in prompts:
            raise BadPrompt(f"object {prompt.object!r} has two boxes or masks on frame {prompt.frame}: give one")
        prompts[key] = prompt
    for click in clicks:
        point = Click(click.x, click.y, click.positive)
        for name in [click.object] if click.object in real else objects:
            known = prompts.get((name, click.frame), Prompt(name, click.frame))
            if known.mask is not None:
                raise BadPrompt(
                    f"object {name!r} has a mask and clicks on frame {click.frame}, which SAM 2 cannot mix: "
                    "correct the mask, or put the clicks on another frame"
                )
            prompts[name, click.frame] = replace(known, clicks=(*known.clicks, point))
    background = [name for name in order if name not in real]
    notes = [f"{name!r} has no positive click: its clicks say what the other objects are not" for name in background]
    position = {name: i for i, name in enumerate(objects)}
    return tuple(sorted(prompts.values(), key=lambda p: (position[p.object], p.frame))), tuple(notes)


def check_prompts(prompts: Sequence[Prompt], *, height: int, width: int, frame_count: int | None) -> None:
    """Raise `BadPrompt` for a prompt outside the video, in time or in space; `frame_count` None: unknown."""
    for prompt in prompts:
        where = f"object {prompt.object!r}, frame {prompt.frame}"
        if prompt.frame < 0 or (frame_count is not None and prompt.frame >= frame_count):
            limit = "0 or more" if frame_count is None else f"0..{frame_count - 1}, the video has {frame_count} frames"
            raise BadPrompt(f"{where}: there is no such frame; choose one of {limit}")
        if not prompt.clicks and prompt.box is None and prompt.mask is None:
            raise BadPrompt(f"{where}: nothing is said; give a click, a box or a mask")
        for i, click in enumerate(prompt.clicks):
            _check_click(f"{where}, click {i + 1}", click, height, width)
        if prompt.box is not None:
            _check_box(f"{where}, box", prompt.box, height, width)
        if prompt.mask is not None and (prompt.mask.shape != (height, width) or prompt.mask.dtype != np.bool_):
            found = f"{prompt.mask.dtype} of shape {prompt.mask.shape}"
            raise BadPrompt(f"{where}: the mask is {found}, but must be bool of the video's shape, ({height}, {width})")


def _check_click(where: str, click: Click, height: int, width: int) -> None:
    for axis, value, size in (("x", click.x, width), ("y", click.y, height)):
        if not 0 <= value < size:  # false for NaN too
            raise BadPrompt(f"{where}: {axis} = {_plain(value)} is outside the frame; choose 0..{size - 1}")


def _check_box(where: str, box: Box, height: int, width: int) -> None:
    corners = ",".join(_plain(v) for v in (box.x0, box.y0, box.x1, box.y1))
    if not (0 <= box.x0 <= width and 0 <= box.x1 <= width and 0 <= box.y0 <= height and 0 <= box.y1 <= height):
        raise BadPrompt(f"{where}: {corners} leaves the frame; choose x in 0..{width} and y in 0..{height}")
    if box.x0 >= box.x1 or box.y0 >= box.y1:
        raise BadPrompt(f"{where}: {corners} is empty; give the top left corner first, then the bottom right one")


def _points(text: str) -> list[tuple[float, float]]:
    """Read `[x,y],[x,y],...`; an outer pair of brackets, as JSON has it, is welcome."""
    plain = _without_spaces("click_coordinates", text)
    if plain.startswith("[[") and plain.endswith("]]"):
        plain = plain[1:-1]
    if not plain:
        raise BadPrompt("click_coordinates is empty: give at least one point, such as [320,180]")
    points = []
    for i, inner in enumerate(_brackets(plain)):
        parts = inner.split(",")
        if len(parts) != 2:
            raise BadPrompt(f"click_coordinates[{i}] = [{_short(inner)}] has {len(parts)} numbers: give 2, as [x,y]")
        x, y = (_number(f"click_coordinates[{i}]", part) for part in parts)
        points.append((x, y))
    if len(points) > MOST_POINTS:
        raise BadPrompt(f"click_coordinates has {len(points)} points: the limit is {MOST_POINTS}")
    return points


def _brackets(plain: str) -> Iterator[str]:
    """Yield what is inside each pair of brackets."""
    at = 0
    while True:
        if not plain.startswith("[", at):
            _misplaced(plain, at, "'['")
        close = plain.find("]", at)
        if close < 0:
            raise BadPrompt(f"click_coordinates: the bracket at character {at + 1} is never closed; write [x,y],[x,y]")
        if (again := plain.find("[", at + 1, close)) >= 0:
            _misplaced(plain, again, "a number or ']'")
        yield plain[at + 1 : close]
        at = close + 1
        if at == len(plain):
            return
        if plain[at] != ",":
            _misplaced(plain, at, "',' or the end")
        at += 1


def _misplaced(plain: str, at: int, expected: str) -> NoReturn:
    found = repr(plain[at]) if at < len(plain) else "the end"
    raise BadPrompt(
        f"click_coordinates: {found} at character {at + 1} (spaces not counted), where {expected} belongs; "
        "write [x,y],[x,y]"
    )


def _items(field: str, text: str) -> list[str]:
    plain = _without_spaces(field, text)
    return plain.split(",") if plain else []


def _names(text: str) -> list[str]:
    names = _items("click_object_ids", text)
    for i, name in enumerate(names):
        if not name:
            raise BadPrompt(f"click_object_ids[{i}] is empty: name every object, or leave the whole field empty")
    return names


def _label(i: int, text: str) -> bool:
    if text not in ("0", "1"):
        raise BadPrompt(f"click_labels[{i}] = {_short(text)!r}: use 1 for the object and 0 for what is not the object")
    return text == "1"


def _frame(where: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > LONGEST_NUMBER:
        raise BadPrompt(f"{where} = {_short(text)!r} is not a frame index: use 0, 1, 2, ...")
    return int(text)


def _number(where: str, text: str) -> float:
    # float() alone also takes 'nan', '1_0' and digits of every script.
    if not text.isascii() or "_" in text or len(text) > LONGEST_NUMBER:
        _no_number(where, text)
    try:
        value = float(text)
    except ValueError:
        _no_number(where, text)
    if not isfinite(value):
        _no_number(where, text)
    return value


def _no_number(where: str, text: str) -> NoReturn:
    raise BadPrompt(f"{where}: {_short(text)!r} is not a finite number; use pixels, such as 12 or 12.5")


def _filled(field: str, values: list[T], count: int, notes: list[str]) -> list[T]:
    """Repeat the last value until there are `count`."""
    if len(values) > count:
        raise BadPrompt(f"{field} has {len(values)} values, but there are {count} points: remove some or add points")
    if 1 < len(values) < count or (field == "click_object_ids" and len(values) < count):
        notes.append(f"{field} has {len(values)} values for {count} points: the last one is repeated")
    return values + values[-1:] * (count - len(values))


def _named(kind: str, text: str, shape: str) -> tuple[str, int, str]:
    parts = text.split(":", 2)
    if len(parts) != 3 or not all(part.strip() for part in parts):
        raise BadPrompt(f"{kind} {_short(text)!r} is not of the form {shape}")
    return parts[0].strip(), _frame(f"{kind} {_short(text)!r}: frame", parts[1].strip()), parts[2].strip()


def _without_spaces(field: str, text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise BadPrompt(f"{field} has {len(text)} characters: the limit is {MOST_CHARACTERS}")
    return "".join(text.split())


def _plain(value: float) -> str:
    """Write a number without a needless fraction, and so that it is read back exactly."""
    return str(int(value)) if isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(value)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
