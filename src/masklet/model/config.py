"""What differs between the released models, and nothing else.

Across the eight official configurations only the Hiera widths and the revision vary (SAM 2 paper, appendix C; the
released YAML files). Everything that no released model varies is a constant beside the code that uses it.
"""

from dataclasses import dataclass
from typing import Literal

Revision = Literal["2.0", "2.1"]


@dataclass(frozen=True)
class HieraConfig:
    """Hiera trunk: four stages, each halving the map and doubling the width."""

    width: int
    heads: int
    depths: tuple[int, int, int, int]
    global_blocks: tuple[int, int, int]
    window_background: int
    """Side of the position embedding's window grid, in tokens."""
    windows: tuple[int, int, int, int]


@dataclass(frozen=True)
class TinyViTConfig:
    """TinyViT-5M, as MobileSAM uses it: the third downsampling keeps stride 16."""

    widths: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    windows: tuple[int, int, int, int] = (7, 7, 14, 7)


@dataclass(frozen=True)
class ModelConfig:
    """One model of the family; `image_px` is the side of the square that coordinates are scaled to."""

    trunk: HieraConfig | TinyViTConfig
    revision: Revision = "2.1"
    image_px: int = 1024
    memory_layers: int = 4
    remembers: bool = True
    """False while the memory parts are untrained, as `masklet.weights` can see: then the tracker leaves them out."""

    @property
    def is_nano(self) -> bool:
        """Rectangular input, no high-resolution skips, prompts propagated instead of memories (`docs/nano.md`)."""
        return isinstance(self.trunk, TinyViTConfig)


HIERA = {
    "tiny": HieraConfig(96, 1, (1, 2, 7, 2), (5, 7, 9), 7, (8, 4, 14, 7)),
    "small": HieraConfig(96, 1, (1, 2, 11, 2), (7, 10, 13), 7, (8, 4, 14, 7)),
    "base-plus": HieraConfig(112, 2, (2, 3, 16, 3), (12, 16, 20), 14, (8, 4, 14, 7)),
    "large": HieraConfig(144, 2, (2, 6, 36, 4), (23, 33, 43), 7, (8, 4, 16, 8)),
}

NANO = ModelConfig(trunk=TinyViTConfig(), image_px=768, memory_layers=2, remembers=False)


def sam2_config(size: str, revision: Revision = "2.1", image_px: int = 1024) -> ModelConfig:
    """Return the official configuration of a size: tiny, small, base-plus or large."""
    return ModelConfig(trunk=HIERA[size], revision=revision, image_px=image_px)
