"""Clicks, boxes and masks as tokens: SAM's prompt encoder (Kirillov et al., arXiv 2304.02643, section 3)."""

import torch
from torch import Tensor, nn

from masklet.model.layers import LayerNorm2d
from masklet.model.position import fourier

WIDTH = 256
STRIDE = 16
NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, PADDING = 0, 1, 2, 3, -1
"""Labels of points; a box is its two corners, placed before the clicks."""


class FourierCode(nn.Module):
    """The fixed random frequencies of the position code, a buffer that checkpoints carry."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, WIDTH // 2))

    def forward(self, places: Tensor) -> Tensor:
        """Code places in 0..1, `[..., 2] -> [..., 256]`, in float32 whatever the network's type."""
        return fourier(places.float(), self.positional_encoding_gaussian_matrix.float())


class PromptEncoder(nn.Module):
    """Sparse tokens for points, a dense map for a mask. Coordinates are pixels of the network's input."""

    def __init__(self, image_px: int) -> None:
        super().__init__()
        self.image_px = image_px
        self.pe_layer = FourierCode()
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, WIDTH) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, WIDTH)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, kernel_size=2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, kernel_size=2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, WIDTH, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, WIDTH)

    def points(self, xy: Tensor, labels: Tensor) -> Tensor:
        """Return `[b, n + 1, 256]` for `[b, n, 2]` points; one padding token always ends the list."""
        xy = torch.cat((xy + 0.5, xy.new_zeros(len(xy), 1, 2)), dim=1)  # + 0.5: the middle of the pixel
        labels = torch.cat((labels, labels.new_full((len(labels), 1), PADDING)), dim=1)[..., None]
        tokens = self.pe_layer(xy / self.image_px)
        tokens = torch.where(labels == PADDING, self.not_a_point_embed.weight, tokens)
        for label, embedding in enumerate(self.point_embeddings.parameters()):
            tokens = torch.where(labels == label, tokens + embedding, tokens)
        return tokens.to(self.no_mask_embed.weight.dtype)

    def mask(self, logits: Tensor | None, size_hw: tuple[int, int]) -> Tensor:
        """Return the dense map `[b or 1, 256, h, w]` for mask logits `[b, 1, 4h, 4w]`, or for none."""
        if logits is None:
            return self.no_mask_embed.weight.reshape(1, WIDTH, 1, 1).expand(1, WIDTH, *size_hw)
        out: Tensor = self.mask_downscaling(logits.to(self.no_mask_embed.weight.dtype))
        return out

    def positions(self, size_hw: tuple[int, int]) -> Tensor:
        """Return the code of every cell `[1, 256, h, w]`: the square's own code, cropped to the picture."""
        device = self.no_mask_embed.weight.device
        y, x = ((torch.arange(n, device=device) + 0.5) * (STRIDE / self.image_px) for n in size_hw)
        places = torch.stack((x.expand(size_hw), y[:, None].expand(size_hw)), dim=-1)
        codes: Tensor = self.pe_layer(places)
        return codes.permute(2, 0, 1)[None].to(self.no_mask_embed.weight.dtype)
