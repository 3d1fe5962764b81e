"""What a person says about objects: clicks, boxes and masks as values, and the four click strings to and fro.

`docs/prompts.md` says what the strings mean. Coordinates are displayed pixels of the source, origin top-left.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from masklet.errors import BadPrompt

T = TypeVar("T")

MOST_CHARACTERS = 100_000
MOST_POINTS = 10_000
LONGEST_NUMBER = 32
"""Characters of one number; more digits say nothing about a pixel and cost time to read."""
LONGEST_NAME = 64
"""Characters of an object's name, which the manifest repeats on every frame."""

_TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Kinds of characters that reorder what is written after them: they could make a log say something else."""


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


class NamedClick(NamedTuple):  # a frozen dataclass takes three times as long to make, and there are ten thousand
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
    signs = _filled("click_labels", labels, _label, len(points), notes) or [True] * len(points)
    indices = _filled("click_frames", frames, _frame, len(points), notes) or [0] * len(points)
    names = _filled("click_object_ids", object_ids, _name, len(points), notes)
    if not names:
        names = [f"object_{i}" for i in range(1, len(points) + 1)]
        notes.append(f"click_object_ids is empty: every click is its own object, {_span(names)}")
    rows = zip(names, indices, points, signs, strict=True)
    return ClickTable(tuple([NamedClick(n, f, x, y, positive) for n, f, (x, y), positive in rows]), tuple(notes))


def format_clicks(clicks: Sequence[NamedClick]) -> tuple[str, str, str, str]:
    """Write rows as the four strings, such that `parse_clicks` gives them back."""
    for i, click in enumerate(clicks):
        if click.object != "".join(click.object.split()) or "," in click.object:
            raise BadPrompt(f"object name {click.object!r} cannot be in a click string: use no spaces and no commas")
        _name(f"name of click {i}", click.object)
        _frame(f"frame of click {i}", str(click.frame))
        for value in (click.x, click.y):
            _number(f"click {i}", _plain(value))
    return (
        ",".join(f"[{_plain(c.x)},{_plain(c.y)}]" for c in clicks),
        ",".join("1" if c.positive else "0" for c in clicks),
        ",".join(str(c.frame) for c in clicks),
        ",".join(c.object for c in clicks),
    )


def parse_box(text: str) -> Prompt:
    """Read a box prompt, `NAME:FRAME:X0,Y0,X1,Y1`."""
    name, frame, rest = _named("box", text, "NAME:FRAME:X0,Y0,X1,Y1")
    parts = _without_spaces("box", rest).split(",")
    if len(parts) != 4:
        raise BadPrompt(f"box {_short(text)!r} has {_count(len(parts), 'number')}, but needs 4: NAME:FRAME:X0,Y0,X1,Y1")
    x0, y0, x1, y1 = (_number(f"box {_short(text)!r}, number {i}", part) for i, part in enumerate(parts, start=1))
    return Prompt(name, frame, box=Box(x0, y0, x1, y1))


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
    real = {c.object for c in clicks if c.positive} | {p.object for p in others if p.mask is None or p.mask.any()}
    objects = [name for name in order if name in real]
    for prompt in others:
        if prompt.object not in real:
            check_first(prompt)
    if not objects:
        raise BadPrompt(
            "no click is positive, so there is no object: give at least one click the label 1, or a box or a mask"
        )
    known: dict[tuple[str, int], Prompt] = {}
    for prompt in others:
        key = (prompt.object, prompt.frame)
        if key in known:
            raise BadPrompt(f"object {prompt.object!r} has two boxes or masks on frame {prompt.frame}: give one")
        known[key] = prompt
    for key, points in _by_prompt(clicks, objects, known).items():
        before = known.get(key)
        known[key] = (
            Prompt(*key, tuple(points)) if before is None else replace(before, clicks=before.clicks + tuple(points))
        )
    background = [name for name in order if name not in real]
    notes = [f"{name!r} has no positive click: its clicks say what the other objects are not" for name in background]
    position = {name: i for i, name in enumerate(objects)}
    return tuple(sorted(known.values(), key=lambda p: (position[p.object], p.frame))), tuple(notes)


def _by_prompt(
    clicks: Sequence[NamedClick], objects: Sequence[str], known: Mapping[tuple[str, int], Prompt]
) -> dict[tuple[str, int], list[Click]]:
    """Sort clicks by object and frame; those of no object go to each."""
    everyone = frozenset(objects)
    common = sum(click.object not in everyone for click in clicks)
    count = len(clicks) - common + common * len(objects)
    if count > MOST_POINTS:
        raise BadPrompt(
            f"{common} clicks say what {len(objects)} objects are not, which makes {count} clicks: "
            f"the limit is {MOST_POINTS}, give fewer"
        )
    said: dict[tuple[str, int], list[Click]] = {}
    for click in clicks:
        for name in [click.object] if click.object in everyone else objects:
            key = (name, click.frame)
            if key in known and known[key].mask is not None:
                raise BadPrompt(
                    f"object {name!r} has a mask on frame {click.frame} and a click of {click.object!r} is for it too, "
                    "which SAM 2 cannot mix: correct the mask, or put the click on another frame"
                )
            said.setdefault(key, []).append(Click(click.x, click.y, click.positive))
    return said


def check_first(prompt: Prompt) -> None:
    """Raise `BadPrompt` for what cannot be all that is said of an object, as it does not say where that is."""
    if prompt.is_correction:
        raise BadPrompt(f"object {prompt.object!r} has no positive click, box or mask yet: say first where it is")
    if prompt.mask is not None and not prompt.mask.any():
        raise BadPrompt(
            f"object {prompt.object!r} has an empty mask on frame {prompt.frame}, and nothing else says where it is: "
            "give a mask that shows it, a click or a box"
        )


def check_clicks(clicks: Sequence[NamedClick], *, height: int, width: int, frame_count: int) -> None:
    """Raise `BadPrompt` for the first row of the click strings that is outside the video, by its place in them."""
    for i, click in enumerate(clicks):
        if not 0 <= click.frame < frame_count:
            raise BadPrompt(
                f"click_frames[{i}] = {click.frame}, but the video has {_count(frame_count, 'frame')}: "
                f"choose one of 0..{frame_count - 1}"
            )
        if not _inside(click, height, width):
            _outside(f"click_coordinates[{i}]", click, height, width)


def check_prompts(prompts: Sequence[Prompt], *, height: int, width: int, frame_count: int | None) -> None:
    """Raise `BadPrompt` for a prompt outside the video, in time or in space; `frame_count` None: unknown."""
    for prompt in prompts:
        if not isinstance(prompt.object, str):
            raise BadPrompt(f"object name {prompt.object!r} is not text: write {str(prompt.object)!r}")
        _name("object name", prompt.object)
        where = f"object {prompt.object!r}, frame {prompt.frame}"
        if prompt.frame < 0 or (frame_count is not None and prompt.frame >= frame_count):
            limit = "0 or more"
            if frame_count is not None:
                limit = f"0..{frame_count - 1}, the video has {_count(frame_count, 'frame')}"
            raise BadPrompt(f"{where}: there is no such frame; choose one of {limit}")
        if not prompt.clicks and prompt.box is None and prompt.mask is None:
            raise BadPrompt(f"{where}: nothing is said; give a click, a box or a mask")
        for i, click in enumerate(prompt.clicks):
            if not _inside(click, height, width):
                _outside(f"{where}, click {i + 1}", click, height, width)
        if prompt.box is not None:
            _check_box(f"{where}, box", prompt.box, height, width)
        if prompt.mask is not None and (prompt.mask.shape != (height, width) or prompt.mask.dtype != np.bool_):
            found = f"{prompt.mask.dtype} of shape {prompt.mask.shape}"
            raise BadPrompt(f"{where}: the mask is {found}, but must be bool of the video's shape, ({height}, {width})")


def _inside(click: Click | NamedClick, height: int, width: int) -> bool:
    return 0 <= click.x < width and 0 <= click.y < height  # false for NaN too


def _outside(where: str, click: Click | NamedClick, height: int, width: int) -> NoReturn:
    axis, value, size = ("y", click.y, height) if 0 <= click.x < width else ("x", click.x, width)
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
    if not plain:
        raise BadPrompt("click_coordinates is empty: give at least one point, such as [320,180]")
    outer = int(plain.startswith("[[") and plain.endswith("]]"))
    pairs = _between_brackets(plain, outer, len(plain) - outer)
    if len(pairs) > MOST_POINTS:
        raise BadPrompt(f"click_coordinates has {len(pairs)} points: the limit is {MOST_POINTS}")
    return _each("click_coordinates", pairs, _point)


def _between_brackets(plain: str, at: int, end: int) -> list[str]:
    """Return what is inside each pair of brackets, from one place to another."""
    pairs = plain[at + 1 : end - 1].split("],[")
    if plain[at] == "[" and plain[end - 1] == "]" and not any("[" in pair or "]" in pair for pair in pairs):
        return pairs
    while plain.startswith("[", at, end):
        close = plain.find("]", at, end)
        if close < 0:
            raise BadPrompt(
                f"click_coordinates: the bracket at character {at + 1} (spaces not counted) is never closed; "
                "write [x,y],[x,y]"
            )
        if (again := plain.find("[", at + 1, close)) >= 0:
            _misplaced(plain, again, end, "a number or ']'")
        if plain[close + 1 : close + 2] != ",":
            _misplaced(plain, close + 1, end, "',' or the end")
        at = close + 2
    _misplaced(plain, at, end, "'['")


def _misplaced(plain: str, at: int, end: int, expected: str) -> NoReturn:
    found = repr(plain[at]) if at < end else "the end"
    raise BadPrompt(
        f"click_coordinates: {found} at character {at + 1} (spaces not counted), where {expected} belongs; "
        "write [x,y],[x,y]"
    )


def _filled(field: str, text: str, read: Callable[[str, str], T], count: int, notes: list[str]) -> list[T]:
    """Read a list and repeat its last value until there are `count`; of an empty text nothing can be repeated."""
    plain = _without_spaces(field, text)
    texts = plain.split(",") if plain else []
    said = f"{field} has {_count(len(texts), 'value')} for {_count(count, 'point')}"
    if len(texts) > count:
        raise BadPrompt(f"{said}: remove some or add points")
    if 1 < len(texts) < count or (field == "click_object_ids" and 0 < len(texts) < count):
        notes.append(f"{said}: the last one is repeated")
    values = _each(field, texts, read)
    return values + values[-1:] * (count - len(values))


def _each(field: str, texts: Sequence[str], read: Callable[[str, str], T]) -> list[T]:
    """Read each of a list; only of a wrong one is its place written, which takes as long as to read it."""
    try:
        return [read(field, text) for text in texts]
    except BadPrompt:
        return [read(f"{field}[{i}]", text) for i, text in enumerate(texts)]


def _point(where: str, pair: str) -> tuple[float, float]:
    parts = pair.split(",") if pair else []
    if len(parts) != 2:
        found = _short(f"[{pair}]")
        raise BadPrompt(f"{where} = {found!r} has {_count(len(parts), 'number')}: give 2, as [x,y]")
    return _number(where, parts[0]), _number(where, parts[1])


def _name(where: str, text: str) -> str:
    if not text:
        raise BadPrompt(f"{where} is empty: name every object, or none")
    if len(text) > LONGEST_NAME:
        raise BadPrompt(f"{where} = {_short(text)!r} has {len(text)} characters: the limit is {LONGEST_NAME}")
    if not text.isprintable() and (bad := next((c for c in text if _unwritable(c)), None)) is not None:
        raise BadPrompt(f"{where} = {_short(text)!r} holds {bad!r}, which cannot be shown: use letters and digits")
    return text


def _unwritable(character: str) -> bool:
    # Signs that only join others (category Cf) are needed in Persian, in Indian scripts and in emoji.
    joins = unicodedata.category(character) == "Cf" and unicodedata.bidirectional(character) not in _TURNING
    return not character.isprintable() and not joins


def _label(where: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise BadPrompt(f"{where} = {_short(text)!r}: use 1 for the object and 0 for what is not the object")
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


def _named(kind: str, text: str, shape: str) -> tuple[str, int, str]:
    parts = text.split(":", 2)
    if len(parts) != 3 or not all(part.strip() for part in parts):
        raise BadPrompt(f"{kind} {_short(text)!r} is not of the form {shape}")
    where = f"{kind} {_short(text)!r}"
    name = _name(f"{where}: name", "".join(parts[0].split()))
    return name, _frame(f"{where}: frame", parts[1].strip()), parts[2].strip()


def _without_spaces(field: str, text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise BadPrompt(f"{field} has {len(text)} characters: the limit is {MOST_CHARACTERS}")
    return "".join(text.split())


def _plain(value: float) -> str:
    """Write a number without a needless fraction, and so that it is read back exactly."""
    value = float(value)  # numpy's own numbers have another repr
    return str(int(value)) if isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(value)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
