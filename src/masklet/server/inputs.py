"""The `input` of a prediction: checked against the model's options before anything is stored.

A name that looks like a mistyped one is refused. Any other that no model knows is left out, as Cog does: what a broken
client sends by mistake may be its own token, so it is neither stored nor repeated.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masklet.errors import BadPrompt
from masklet.prompts import NamedClick, gather, parse_box, parse_clicks
from masklet.request import Option
from masklet.server.catalog import Served, inputs
from masklet.server.problems import InvalidField

MOST_BOXES = 1_000
LIKE = 0.8
"""How like a known name an unknown one must be to be a slip (difflib's ratio)."""
MOST_COMPARED = 100
"""So many unknown names are looked at for slips: a request can hold half a million, and each takes a while."""


@dataclass(frozen=True)
class Checked:
    """What a caller may ask for."""

    given: dict[str, Any]
    """The known inputs as they were sent."""


@dataclass(frozen=True)
class Wrong:
    """One input that is wrong."""

    option: str
    kind: str
    """In the words of Replicate's `invalid_fields`."""
    message: str


def check_inputs(model: Served, sent: Mapping[str, Any]) -> Checked | list[Wrong]:
    """Return the inputs that a model understands, or everything that is wrong with them."""
    known = {option.name: option for option in inputs()}
    given = {name: _plain(known[name], value) for name, value in sent.items() if name in known}
    wrong = [Wrong(name, "required", f"{name} is required") for name in model.required if name not in given]
    for name, value in given.items():
        if (problem := _check(known[name], value)) is not None:
            wrong.append(problem)
    wrong += _mistyped([name for name in sent if name not in known], list(known))
    if not wrong and (said := _check_prompts(given)) is not None:
        wrong.append(said)
    return wrong or Checked(given)


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs with those that were left out, in order."""
    return {
        option.name: given.get(option.name, list(option.default) if option.kind is tuple else option.default)
        for option in inputs()
        if option.name in given or option.name != "input_video"
    }


def as_invalid_fields(wrong: list[Wrong]) -> list[InvalidField]:
    """Put it in Replicate's words, which count a missing input as a fault of `input` itself."""
    return [
        InvalidField(each.kind, "input" if each.kind == "required" else f"input.{each.option}", each.message)
        for each in wrong
    ]


def _plain(option: Option, value: Any) -> Any:
    """Return 30.0 as 30 where an integer is wanted: in JSON they are the same number."""
    return int(value) if option.kind is int and isinstance(value, float) and value.is_integer() else value


def _check(option: Option, value: Any) -> Wrong | None:
    if not _is_of_kind(option, value):
        return Wrong(option.name, "invalid_type", f"Invalid type. Expected: {_named(option)}, given: {_kind(value)}")
    if option.choices and value not in option.choices:
        choices = ", ".join(f'"{choice}"' for choice in option.choices)
        return Wrong(option.name, "enum", f"{option.name} must be one of the following: {choices}")
    if option.limits is None:
        return None
    least, most = option.limits
    if value < least:
        return Wrong(option.name, "number_gte", f"Must be greater than or equal to {least}")
    if most is not None and value > most:
        return Wrong(option.name, "number_lte", f"Must be less than or equal to {most}")
    return None


def _is_of_kind(option: Option, value: Any) -> bool:
    if option.kind is tuple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    # bool is a kind of int, but True is no number of frames.
    return isinstance(value, option.kind) and (option.kind is bool or not isinstance(value, bool))


def _check_prompts(given: Mapping[str, Any]) -> Wrong | None:
    """Read the click strings and boxes as the worker will, so that a typing error costs no decoding."""
    boxes = given.get("boxes", [])
    if len(boxes) > MOST_BOXES:
        return Wrong("boxes", "array_max_items", f"there are {len(boxes)} boxes: the limit is {MOST_BOXES}")
    coordinates = given.get("click_coordinates", "")
    try:
        prompts = [parse_box(box) for box in boxes]
        clicks: tuple[NamedClick, ...] = ()
        if coordinates.strip() or not prompts:
            lists = (given.get(name, option) for name, option in _CLICK_DEFAULTS.items())
            clicks = parse_clicks(coordinates, *lists).clicks
        gather(clicks, prompts)
    except BadPrompt as problem:
        message = str(problem)
        blamed = next((name for name in (*_CLICK_DEFAULTS, "click_coordinates") if message.startswith(name)), None)
        return Wrong(blamed or ("boxes" if message.startswith("box") else "click_coordinates"), "format", message)
    return None


_CLICK_DEFAULTS = {
    option.name: option.default
    for option in inputs()
    if option.name in ("click_labels", "click_frames", "click_object_ids")
}


def _mistyped(unknown: list[str], known: list[str]) -> list[Wrong]:
    wrong = []
    for name in unknown[:MOST_COMPARED]:
        near = difflib.get_close_matches(name[:100], known, n=1, cutoff=LIKE)
        if near:
            message = f"{name[:100]!r} is not known; did you mean {near[0]}?"
            wrong.append(Wrong(near[0], "additional_property_not_allowed", message))
    return wrong


def _named(option: Option) -> str:
    return {str: "string", int: "integer", bool: "boolean", tuple: "array of strings"}[option.kind]


def _kind(value: Any) -> str:
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "null")
