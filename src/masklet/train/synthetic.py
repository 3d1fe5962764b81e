"""Clips made on the spot: cut-outs that move before moving backgrounds, with masks that are exact.

Each clip has a story. In most, things pass before each other and change; in some, one thing leaves the frame and
returns, or hides behind something and returns. Often another thing with the same looks stays around, which is no object
of the clip. Everything follows from the generator that is passed in.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from PIL.Image import Resampling

from masklet.errors import BadVideo
from masklet.train.backgrounds import Backgrounds
from masklet.train.clips import Clip
from masklet.train.cutouts import Pose, bordered, cutouts_in, lay, read_cutout
from masklet.train.movement import Stage, leaving, log_uniform, passing, wander, way
from masklet.train.prepared import write_sequence

Story = Literal["stays", "leaves", "hides"]
STORIES: Mapping[Story, float] = MappingProxyType({"stays": 0.5, "leaves": 0.25, "hides": 0.25})
"""How often each is told."""
LEAST_FRAMES = 3
"""A story needs a frame before, one without the thing, and one after."""
TWIN: Mapping[Story, float] = MappingProxyType({"stays": 0.3, "leaves": 0.5, "hides": 0.5})
"""How often a look-alike of the clip's first object is there."""
MOST_OBJECTS = 4
MOST_STRANGERS = 2
"""Things that are no objects, so that to be pasted does not mean to be one."""
SIZES, HERO_SIZES = (0.14, 0.75), (0.14, 0.4)
"""Longest side of a thing in heights of the frame; of one that goes away and returns."""
TEXTURED, SOFTENED, SHADOW = 0.2, 0.5, 0.25
"""How often a thing has another surface, softer edges, a shadow."""
LIGHT_CHANGES, NOISE, JPEG, BLUR = 0.4, 0.5, 0.5, 0.15
"""How often each happens to a clip; the first to a thing too."""
LEAST_SEEN = 5e-4
"""An object is at least this share of the frame on the first one."""
CRUMB = 1e-4
"""A thing of which less than this share of the frame can be seen counts as hidden."""
SHADOW_OPACITY = 0.4
"""Less than half, so a shadow hides nothing."""
OCCLUDER_PX = 200
"""An occluder is drawn so large at most, and enlarged."""
HELD_OUT = 10
"""One in so many emoji is kept for evaluation, in every style that it is drawn in."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """One thing of a scene."""

    picture: Image.Image
    """`RGBa`."""
    poses: tuple[Pose, ...]
    """One a frame."""
    light: NDArray[np.float64]
    """`[t]`, what its colours are multiplied with."""
    named: bool
    """Whether it is an object of the clip."""


class SyntheticSource:
    """Clips from a folder with `cutouts/STYLE-SUBJECT.png` and `backgrounds/CLIP-FRAME.jpg`.

    `held_out` takes the cut-outs that are never trained on. `stories` says how often each story is told.
    """

    def __init__(self, folder: str | Path, *, stories: Mapping[Story, float] = STORIES, held_out: bool = False) -> None:
        styles: dict[str, list[Path]] = {}
        for path in cutouts_in(Path(folder) / "cutouts"):
            if _is_held_out(path) == held_out:
                styles.setdefault(path.stem.partition("-")[0], []).append(path)
        # Every style as often as any other: there are thousands of emoji for each hundred things from films.
        self._styles = tuple(styles.values())
        if not self._styles:
            raise BadVideo(f"{folder} has no cutouts/*.png: run scripts/make_training_data.py first")
        self._backgrounds = Backgrounds.of(Path(folder) / "backgrounds")
        self._stories = tuple(stories)
        self._chances = np.array([stories[story] for story in self._stories]) / sum(stories.values())

    def clip(self, rng: np.random.Generator, *, frames: int, size_hw: tuple[int, int]) -> Clip:
        """Make a clip with 1 to 4 objects, all seen on the first frame; of fewer than 3 frames every story "stays".

        Its name is `synthetic-STORY`; of a story the last object is the one that goes away and comes back.
        """
        while True:
            told = self._stories[int(rng.choice(len(self._stories), p=self._chances))]
            story: Story = told if frames >= LEAST_FRAMES else "stays"
            pictures, stage = self._backgrounds.film(rng, frames=frames, size_hw=size_hw)
            rgb, masks = _draw(pictures, self._scene(rng, story, stage), stage)
            seen = masks.mean(axis=(2, 3))
            masks &= (seen >= CRUMB)[..., None, None]
            masks = masks[:, seen[0] >= LEAST_SEEN]
            hero_seen = story == "stays" or seen[0, -1] >= LEAST_SEEN
            if masks.shape[1] and hero_seen:
                return Clip(f"synthetic-{story}", _developed(_lit(rgb, rng), rng), masks)

    def _scene(self, rng: np.random.Generator, story: Story, stage: Stage) -> list[_Layer]:
        """Return the things of a clip from back to front."""
        hero = self._thing(rng, stage, SIZES if story == "stays" else HERO_SIZES)
        others = [self._thing(rng, stage, SIZES) for _ in range(int(rng.integers(MOST_OBJECTS)))]
        for _ in range(int(rng.integers(MOST_STRANGERS + 1))):
            others.append(replace(self._thing(rng, stage, SIZES), named=False))
        if rng.random() < TWIN[story]:
            others.append(_twin(rng, stage, hero))
        others = [others[i] for i in rng.permutation(len(others))]
        if story == "stays":
            others.insert(int(rng.integers(len(others) + 1)), hero)
            return _with_shadows(rng, others)
        # Otherwise the hero is before all others, so that it is seen and gone as the story has it.
        if story == "leaves":
            hero = replace(hero, poses=leaving(rng, stage, hero.picture, hero.poses))
            return _with_shadows(rng, [*others, hero])
        return [*_with_shadows(rng, [*others, hero]), self._occluder(rng, stage, hero)]

    def _thing(self, rng: np.random.Generator, stage: Stage, sizes: tuple[float, float]) -> _Layer:
        """Draw a cut-out, its looks and its way."""
        style = self._styles[int(rng.integers(len(self._styles)))]
        picture = read_cutout(style[int(rng.integers(len(style)))])
        scale = stage.size_hw[0] * log_uniform(rng, *sizes) / max(picture.size)
        if scale < 0.7:  # made small once and well; bilinear steps do the rest
            small = [max(4, round(1.2 * scale * side)) for side in picture.size]
            picture, scale = bordered(picture.resize((small[0], small[1]), Resampling.BOX)), 1 / 1.2
        if rng.random() < TEXTURED:
            picture = self._textured(rng, picture)
        gains = np.clip(rng.normal(0.9, 0.12, 3), 0.5, 1.0)  # at most 1: colours are multiplied by the opacity
        picture = picture.point(np.outer((*gains, 1.0), np.arange(256)).round().astype(int).ravel().tolist())
        if rng.random() < SOFTENED:
            picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
        start = rng.uniform(0.12, 0.88, 2) * stage.size_hw[::-1]
        light = wander(rng, stage.frames, 0.05 * (rng.random() < LIGHT_CHANGES))[:, 0]
        return _Layer(picture, way(rng, stage, start, scale), np.exp(np.clip(light, -0.6, 0.25)), named=True)

    def _textured(self, rng: np.random.Generator, picture: Image.Image) -> Image.Image:
        """Give a thing the surface of a piece of some background."""
        own = picture.convert("RGBA").convert("RGB")
        mixed = Image.blend(self._backgrounds.piece(rng, picture.size), own, float(rng.uniform(0.0, 0.5)))
        mixed.putalpha(picture.getchannel("a"))
        return mixed.convert("RGBa")

    def _occluder(self, rng: np.random.Generator, stage: Stage, of: _Layer) -> _Layer:
        """Return a pillar or a board that passes over a thing, and hides all of it for a while."""
        reach = max(pose.reach_px(of.picture) for pose in of.poses)
        pillar = rng.random() < 0.5
        side = 2.1 * reach + 4
        size = np.array((side, 2 * stage.size_hw[0] + side if pillar else side))
        drawn = np.minimum(size, OCCLUDER_PX).round().astype(int)
        surface = self._backgrounds.piece(rng, (int(drawn[0]), int(drawn[1])))
        shape = Image.new("L", surface.size)
        corner = 0.0 if pillar else float(rng.uniform(0.0, 0.3)) * min(surface.size)
        ImageDraw.Draw(shape).rounded_rectangle((0, 0, shape.width - 1, shape.height - 1), corner, fill=255)
        surface.putalpha(shape)
        # A board is clear of the thing at 1.5 times the distance even when it passes along its own diagonal.
        turn = np.pi * float(rng.integers(2)) if pillar else float(rng.uniform(0, 2 * np.pi))
        clear = (1.1 if pillar else 1.6) * side
        offsets = clear * np.outer(passing(rng, stage.frames), (np.cos(turn), np.sin(turn)))
        ways = np.array([pose.xy for pose in of.poses]) + offsets
        scale = (float(size[0] / drawn[0]), float(size[1] / drawn[1]))
        poses = tuple(Pose((float(x), float(y)), scale) for x, y in ways)
        return _Layer(bordered(surface).convert("RGBa"), poses, np.ones(stage.frames), named=False)


def write_returns(
    folder: str | Path, out: Path, *, seed: int, count: int, frames: int, size_hw: tuple[int, int] = (432, 768)
) -> None:
    """Write clips in which a thing goes away and comes back, from cut-outs never trained on, in SA-V's layout.

    Only that thing is an object; the first frame shows it. Each sequence is named by its story.
    """
    source = SyntheticSource(folder, stories={"leaves": 1, "hides": 1}, held_out=True)
    for i in range(count):
        clip = source.clip(np.random.default_rng((seed, i)), frames=frames, size_hw=size_hw)
        pictures = [Image.fromarray(rgb) for rgb in clip.frames]
        write_sequence(out, f"{clip.name}-{i:03d}", pictures, {"hero": list(clip.masks[:, -1])})


def _is_held_out(path: Path) -> bool:
    style, _, subject = path.stem.partition("-")
    # What the teacher cut out of one frame it also cut out of others: of those none is new.
    return style != "teacher" and zlib.crc32(subject.encode()) % HELD_OUT == 0


def _twin(rng: np.random.Generator, stage: Stage, of: _Layer) -> _Layer:
    """Return a look-alike that is no object, on a way of its own which does not begin where the other does."""
    pose = of.poses[0]
    apart = 1.5 * pose.reach_px(of.picture)
    starts = rng.uniform(0.05, 0.95, (8, 2)) * stage.size_hw[::-1]
    distances = np.hypot(*(starts - np.array(pose.xy)).T)
    start = starts[int(np.argmax(np.minimum(distances, apart)))]
    poses = way(rng, stage, start, pose.scale_xy[1] * float(rng.uniform(0.85, 1.15)))
    return replace(of, poses=poses, named=False)


def _with_shadows(rng: np.random.Generator, layers: Sequence[_Layer]) -> list[_Layer]:
    """Put a soft shadow under some things."""
    shaded = []
    for layer in layers:
        if rng.random() < SHADOW:
            shaded.append(_shadow(rng, layer))
        shaded.append(layer)
    return shaded


def _shadow(rng: np.random.Generator, layer: _Layer) -> _Layer:
    side = max(layer.picture.size)
    alpha = layer.picture.getchannel("a").filter(ImageFilter.GaussianBlur(0.03 * side))
    alpha = alpha.point([round(SHADOW_OPACITY * value) for value in range(256)])
    black = Image.new("L", alpha.size)
    dx, dy = rng.normal(0, 0.08, 2) * side * abs(layer.poses[0].scale_xy[1])
    poses = tuple(replace(pose, xy=(pose.xy[0] + dx, pose.xy[1] + abs(dy))) for pose in layer.poses)
    return replace(layer, picture=Image.merge("RGBa", (black, black, black, alpha)), poses=poses, named=False)


def _draw(
    pictures: Sequence[Image.Image], layers: Sequence[_Layer], stage: Stage
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Lay things on backgrounds; of each object the mask is what no other thing hides."""
    rows = {id(layer): row for row, layer in enumerate(layer for layer in layers if layer.named)}
    masks = np.zeros((stage.frames, len(rows), *stage.size_hw), bool)
    rgb = np.stack([np.asarray(picture, np.float32) for picture in pictures])
    for i in range(stage.frames):
        for layer in layers:
            patch = lay(layer.picture, layer.poses[i], size_hw=stage.size_hw)
            if patch is None:
                continue
            under = rgb[i, patch.rows, patch.columns]
            under *= 1 - patch.opacity
            under += patch.colour * np.float32(layer.light[i])
            masks[i, :, patch.rows, patch.columns] &= ~patch.solid
            if layer.named:
                masks[i, rows[id(layer)], patch.rows, patch.columns] = patch.solid
    return rgb, masks


def _lit(rgb: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Sometimes change the light over a clip, and its colour."""
    if rng.random() < LIGHT_CHANGES:
        course = np.clip(wander(rng, len(rgb), 0.05), -0.5, 0.3)
        rgb *= np.exp(course + rng.normal(0, 0.08, 3)).astype(np.float32)[:, None, None]
    return rgb


def _developed(rgb: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Do to pictures what cameras and codecs do: noise, blur, JPEG."""
    frames, height, width, _ = rgb.shape
    if rng.random() < NOISE:
        strength = np.float32(log_uniform(rng, 1, 9))
        grain = strength * rng.standard_normal((height + 32, width + 32, 3), np.float32)
        for picture in rgb:  # the same grain, shifted: new grain for each frame would cost more than all the rest
            y, x = rng.integers(33, size=2)
            picture += grain[y : y + height, x : x + width]
    pixels = np.clip(rgb, 0, 255, out=rgb).astype(np.uint8)
    blur = float(rng.uniform(0.5, 1.5)) if rng.random() < BLUR else 0.0
    quality = int(rng.integers(35, 95)) if rng.random() < JPEG else 0
    for i in range(frames if blur or quality else 0):
        picture = Image.fromarray(pixels[i])
        if blur:
            picture = picture.filter(ImageFilter.BoxBlur(blur))
        pixels[i] = np.asarray(_compressed(picture, quality) if quality else picture)
    return pixels


def _compressed(picture: Image.Image, quality: int) -> Image.Image:
    coded = BytesIO()
    picture.save(coded, "JPEG", quality=quality)
    return Image.open(coded)
