"""Which models the service answers to, their versions, and the inputs that each takes. Knows no network and no torch.

`meta/sam-2-video` runs the model that the server was started with; `masklet/NAME` runs that one. A version is the
SHA-256 of a model's name and weights, so it stays while they do. The ids under which Replicate hosts
`meta/sam-2-video` are other names for its one version here.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from masklet.catalogue import MODELS, embedded_file
from masklet.request import Option, options

HOSTED = ("meta", "sam-2-video")
HOSTED_VERSIONS = (
    "33432afdfc06a10da6b4018932893d39b0159f838b6d11dd1236dff85cc5ec1d",
    # Without annotation_type, else the same; who pinned them sends nothing that is not understood here.
    "ae56b590ea0bdca00b7469636715aaa8bd0a1ec0ed6ee1d50e103d44af779dc6",
    "ae337c1f6a5cd8a2560b65f403386c77c44ee7031139be78ae9b1006f2006be1",
    "2d7219877ca847f463d749d9b224e62f7b078fe035d60a74b58889b455d5cbad",
    "4cf1856c2e63670fa0a933b62c488d8321a5b5035215cf3e58a31904849deb7a",
)
OWNER = "masklet"
KEPT_FROM_CALLERS = ("masks", "model", "device", "dtype", "out", "per_object")
"""Options that name files or devices of the server, or ask for files that a list of URLs has no place for."""
OVER_HTTP = {
    "input_video": "The video: an https URL, a data: URI, or a file from /v1/files.",
    "boxes": "Boxes as prompts, each NAME:FRAME:X0,Y0,X1,Y1 in displayed pixels.",
    "source_timing": "Give the MP4 the source's frame times instead of video_fps. It has no sound.",
}
"""Where an option's help would speak of the command line."""
SINCE = "2024-07-29T00:00:00.000Z"
"""When SAM 2 was published; a version must have a date, and its files carry none."""
VERSION_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Served:
    """A model as callers see it."""

    owner: str
    name: str
    weights: str
    """What the worker loads: a name in `masklet models`, a file, or a hub id."""
    version: str
    description: str
    aliases: tuple[str, ...] = ()
    """Version ids that mean `version`."""
    required: tuple[str, ...] = ("input_video",)

    @property
    def slug(self) -> str:
        """Return `owner/name`."""
        return f"{self.owner}/{self.name}"

    def under(self, version: str) -> "Served":
        """Return it with the version id that the caller used, which answers must repeat."""
        return replace(self, version=version)


class Catalogue:
    """All models of one server; the first is `meta/sam-2-video`."""

    def __init__(self, default: str = "nano") -> None:
        hosted = Served(
            *HOSTED,
            weights=default,
            version=_version("/".join(HOSTED), default),
            description=f"SAM 2 for video, as on Replicate; this server runs {default!r}.",
            aliases=HOSTED_VERSIONS,
            required=("input_video", "click_coordinates"),
        )
        names = list(MODELS) if default in MODELS else [default, *MODELS]
        self.models = (hosted, *(_own(name) for name in names))

    def find(self, owner: str, name: str) -> Served | None:
        """Return the model of a slug."""
        return next((model for model in self.models if (model.owner, model.name) == (owner, name)), None)

    def version(self, version: str) -> Served | None:
        """Return the model with this version, under the id that was asked for."""
        for model in self.models:
            if version == model.version or version in model.aliases:
                return model.under(version)
        return None

    def resolve(self, reference: str) -> Served | None:
        """Return the model that `<64 hex>`, `owner/name` or `owner/name:<64 hex>` means."""
        slug, colon, version = reference.partition(":")
        if "/" not in slug:
            return self.version(slug) if not colon else None
        found = self.find(*slug.split("/", 1))
        if found is None or not colon:
            return found
        pinned = self.version(version)
        return pinned if pinned is not None and pinned.slug == found.slug else None


def inputs() -> tuple[Option, ...]:
    """Return the options that callers may use, the hosted model's twelve first."""
    return tuple(option for option in options() if option.name not in KEPT_FROM_CALLERS)


@dataclass(frozen=True)
class InputSchema:
    """The inputs of a model as JSON schema, as Cog writes it."""

    required: tuple[str, ...] = ("input_video",)

    @cached_property
    def properties(self) -> dict[str, Any]:
        """Return one schema per input, in order."""
        return {option.name: _property(option, order) for order, option in enumerate(inputs())}

    @cached_property
    def choices(self) -> dict[str, Any]:
        """Return the closed sets, which Cog keeps as components of their own."""
        return {
            option.name: {
                "type": "string",
                "enum": list(option.choices),
                "title": option.name,
                "description": "An enumeration.",
            }
            for option in inputs()
            if option.choices
        }

    @property
    def whole(self) -> dict[str, Any]:
        """Return the schema of `input`."""
        return {
            "properties": self.properties,
            "type": "object",
            "required": list(self.required),
            "title": "Input",
        }


def _property(option: Option, order: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": OVER_HTTP.get(option.name, option.help)}
    if option.choices:
        schema["allOf"] = [{"$ref": f"#/components/schemas/{option.name}"}]
    else:
        schema |= {"title": option.name.replace("_", " ").title(), **_kind(option)}
    if option.name not in ("input_video", "click_coordinates"):
        schema["default"] = list(option.default) if option.kind is tuple else option.default
    return schema | {"x-order": order}


def _kind(option: Option) -> dict[str, Any]:
    if option.name == "input_video":
        return {"type": "string", "format": "uri"}
    if option.kind is tuple:
        return {"type": "array", "items": {"type": "string"}}
    if option.kind is not int:
        return {"type": "boolean" if option.kind is bool else "string"}
    least, most = option.limits or (None, None)
    bounds = {"minimum": least, "maximum": most}
    return {"type": "integer"} | {name: bound for name, bound in bounds.items() if bound is not None}


def _own(weights: str) -> Served:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(weights).stem if weights not in MODELS else weights)
    size = f", {MODELS[weights].size_mb:.0f} MB" if weights in MODELS else ""
    return Served(OWNER, name, weights, _version(f"{OWNER}/{name}", weights), f"Video segmentation with {name}{size}.")


def _version(slug: str, weights: str) -> str:
    return hashlib.sha256(f"{slug} {_fingerprint(weights)}".encode()).hexdigest()


def _fingerprint(weights: str) -> str:
    """Return the SHA-256 of a model's file where it is known or at hand; a hub id stands for itself."""
    known = MODELS.get(weights)
    if known is not None and known.sha256 is not None:
        return known.sha256
    path = Path(weights) if known is None else embedded_file(known)
    rest = _fingerprint(known.shares) if known is not None and known.shares is not None else ""
    return (_sha256(path) if path.is_file() else weights) + rest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def slugs(models: Iterable[Served]) -> list[str]:
    """Return the names that errors offer."""
    return [model.slug for model in models]
