"""The feature pyramid neck of SAM 2: four trunk maps to a wide one and two narrow, fine ones (paper section 4)."""

from torch import Tensor, nn
from torch.nn import functional

from masklet.model.config import HieraConfig

WIDTH = 256


class Lateral(nn.Module):
    """A 1 x 1 convolution under the name that checkpoints give it."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, WIDTH, kernel_size=1)

    def forward(self, x: Tensor, then: nn.Conv2d | None = None) -> Tensor:
        """Convolve, and with `then` once more: two 1 x 1 convolutions are one, by the product of their weights."""
        if then is None or self.conv.bias is None or then.bias is None:
            out: Tensor = self.conv(x)
            return out
        outer, inner = then.weight.flatten(1), self.conv.weight.flatten(1)
        return functional.conv2d(x, (outer @ inner)[:, :, None, None], outer @ self.conv.bias + then.bias)


class FpnNeck(nn.Module):
    """Lateral 1 x 1 convolutions, and one top-down sum from stride 32 into stride 16."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Lateral(config.width << stage) for stage in reversed(range(4)))

    def forward(
        self, maps: list[Tensor], narrowing: tuple[nn.Conv2d, nn.Conv2d]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the map at stride 16, and those at strides 4 and 8 after the decoder's `narrowing`.

        Of the two fine maps nothing else is used, so their 256 channels are never made.
        """
        coarse, middle, fine, finest = self.convs
        image = middle(maps[2]) + functional.interpolate(coarse(maps[3]), scale_factor=2.0, mode="nearest")
        return image, (finest(maps[0], narrowing[0]), fine(maps[1], narrowing[1]))
