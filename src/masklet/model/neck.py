"""The feature pyramid neck of SAM 2: four trunk maps to three of equal width (paper section 4)."""

from torch import Tensor, nn
from torch.nn import functional

from masklet.model.config import HieraConfig

WIDTH = 256


class Lateral(nn.Module):
    """A 1 x 1 convolution under the name that checkpoints give it."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, WIDTH, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class FpnNeck(nn.Module):
    """Lateral 1 x 1 convolutions, and one top-down sum from stride 32 into stride 16."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Lateral(config.width << stage) for stage in reversed(range(4)))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the maps at strides 4, 8 and 16; only the last receives the stride-32 map, which is then dropped."""
        coarse, middle, fine, finest = (conv(x) for conv, x in zip(self.convs, reversed(maps), strict=True))
        middle = middle + functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return [finest, fine, middle]
