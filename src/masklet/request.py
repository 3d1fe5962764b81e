"""What a person can ask for: one field per public option. Command line, schemas and docs are made from it.

Names, order, defaults and limits of the first twelve are those of `meta/sam-2-video` on Replicate. No torch here, nor
numpy, so that `--help` is instant.
"""

from dataclasses import Field, asdict, dataclass, field, fields
from reprlib import repr as brief
from typing import Any, get_args, get_type_hints

from masklet.choices import AnnotationType, Direction, MaskType, OutputFormat
from masklet.errors import BadPrompt


def _about(help: str, *, limits: tuple[int, int | None] | None = None, flag: str = "") -> dict[str, Any]:
    return {"help": help, "limits": limits, "flag": flag}


@dataclass(frozen=True)
class Request:
    """A segmentation job. Raises `BadPrompt` for a value outside its choices or limits."""

    input_video: str = field(metadata=_about("The video: a file, a folder of pictures, or one picture."))
    click_coordinates: str = field(default="", metadata=_about("Clicks as [x,y],[x,y],... in displayed pixels."))
    click_labels: str = field(
        default="1", metadata=_about("1 for each click on the object, 0 for one off it; the last repeats.")
    )
    click_frames: str = field(default="0", metadata=_about("Frame of each click, from 0; the last repeats."))
    click_object_ids: str = field(
        default="", metadata=_about("Name of each click's object; empty: every click is its own object.")
    )
    mask_type: MaskType = field(
        default="binary", metadata=_about("What pictures show: masks, the frame with objects coloured, or on green.")
    )
    annotation_type: AnnotationType = field(default="mask", metadata=_about("What 'highlighted' draws."))
    output_video: bool = field(default=False, metadata=_about("Write one MP4 instead of pictures."))
    video_fps: int = field(default=30, metadata=_about("Frames per second of the MP4.", limits=(1, 60)))
    output_format: OutputFormat = field(default="webp", metadata=_about("Kind of the pictures."))
    output_quality: int = field(default=80, metadata=_about("Quality of jpg and webp.", limits=(0, 100)))
    output_frame_interval: int = field(default=1, metadata=_about("Write every Nth frame.", limits=(1, None)))
    boxes: tuple[str, ...] = field(
        default=(), metadata=_about("A box as a prompt: NAME:FRAME:X0,Y0,X1,Y1.", flag="--box")
    )
    masks: tuple[str, ...] = field(
        default=(), metadata=_about("A mask picture as a prompt: NAME:FRAME:FILE.", flag="--mask")
    )
    model: str = field(default="nano", metadata=_about("Name ('masklet models' lists them), file, or hub id."))
    device: str = field(default="auto", metadata=_about("auto, cpu, cuda, cuda:1, mps."))
    dtype: str = field(default="auto", metadata=_about("auto, float32, bfloat16, float16."))
    direction: Direction = field(default="both", metadata=_about("Which way objects are followed from their prompts."))
    out: str = field(default="", metadata=_about("Folder for the results; default: VIDEO_masks, numbered if taken."))
    per_object: bool = field(default=False, metadata=_about("Also write each object's mask on each frame as a PNG."))
    source_timing: bool = field(
        default=False, metadata=_about("Give the MP4 the source's frame times and sound instead of --video-fps.")
    )

    def __post_init__(self) -> None:
        for option in options():
            option.check(getattr(self, option.name))

    def asked(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class Option:
    """One field of `Request`, for those who make forms, flags or schemas of it."""

    name: str
    flag: str
    """As on the command line, such as `--mask-type`."""
    kind: type
    """`str`, `int`, `bool` or `tuple` (of texts)."""
    help: str
    default: Any
    choices: tuple[str, ...]
    limits: tuple[int, int | None] | None
    """Least and greatest value; None for no end."""

    def check(self, value: Any) -> None:
        """Raise `BadPrompt` for a value of another kind or out of bounds."""
        # bool is a kind of int, but True is no number of frames.
        if not isinstance(value, self.kind) or (self.kind is int and isinstance(value, bool)):
            wanted = "tuple of str" if self.kind is tuple else self.kind.__name__
            raise BadPrompt(f"{self.name} = {brief(value)} is {type(value).__name__}, but must be {wanted}")
        for i, text in enumerate(value if isinstance(value, tuple) else ()):
            if not isinstance(text, str):
                raise BadPrompt(f"{self.name}[{i}] = {brief(text)} is {type(text).__name__}, but must be str")
        if self.choices and value not in self.choices:
            raise BadPrompt(f"{self.name} = {brief(value)} is not known: choose one of {', '.join(self.choices)}")
        if self.limits is not None and isinstance(value, int):
            self._check_limits(value, *self.limits)

    def _check_limits(self, value: int, least: int, most: int | None) -> None:
        if value < least or (most is not None and value > most):
            bounds = f"at least {least}" if most is None else f"{least}..{most}"
            raise BadPrompt(f"{self.name} = {value} is out of range: choose {bounds}")


def options() -> tuple[Option, ...]:
    """Return the fields of `Request` in order."""
    hints = get_type_hints(Request)
    return tuple(_described(f, hints[f.name]) for f in fields(Request))


def _described(f: Field[Any], hint: Any) -> Option:
    choices = get_args(hint) if hint not in (str, int, bool, tuple[str, ...]) else ()
    kind = str if choices else getattr(hint, "__origin__", hint)
    flag = f.metadata["flag"] or "--" + f.name.replace("_", "-")
    return Option(f.name, flag, kind, f.metadata["help"], f.default, choices, f.metadata["limits"])
