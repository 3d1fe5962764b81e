"""Tokens and picture to masks: SAM's two-way decoder with SAM 2's occlusion score (SAM 2 paper, section 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from masklet.model.attention import Attention
from masklet.model.layers import MLP, LayerNorm2d

WIDTH = 256
HEADS = 8
MASKS = 4
"""Token 0 is the single-mask answer, 1..3 are the three readings of an ambiguous prompt."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Everything the decoder says; `b` objects, four mask tokens each."""

    logits: Tensor
    """`[b, 4, 4h, 4w]`."""
    ious: Tensor
    """`[b, 4]`, predicted."""
    tokens: Tensor
    """`[b, 4, 256]`, from which object pointers are made."""
    scores: Tensor
    """`[b, 1]`, occlusion logits: above 0 the object is present."""


class TwoWayBlock(nn.Module):
    """Tokens attend to each other, to the picture, and the picture to the tokens."""

    def __init__(self, *, first: bool, heard: slice) -> None:
        super().__init__()
        self.first = first
        self.heard = heard
        self.self_attn = Attention(WIDTH, HEADS)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.cross_attn_token_to_image = Attention(WIDTH, HEADS, inner=WIDTH // 2)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = MLP((WIDTH, 2048, WIDTH))
        self.norm3 = nn.LayerNorm(WIDTH)
        self.norm4 = nn.LayerNorm(WIDTH)
        self.cross_attn_image_to_token = Attention(WIDTH, HEADS, inner=WIDTH // 2)

    def forward(self, tokens: Tensor, image: Tensor, token_codes: Tensor, image_codes: Tensor) -> tuple[Tensor, Tensor]:
        heard = tokens[:, self.heard]
        if self.first:  # the first block's tokens are their own position codes
            tokens = self.self_attn(tokens, heard, heard)
        else:
            coded = tokens + token_codes
            tokens = tokens + self.self_attn(coded, coded[:, self.heard], heard)
        tokens = self.norm1(tokens)
        coded_image = image + image_codes
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_codes, coded_image, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        heard, coded = tokens[:, self.heard], (tokens + token_codes)[:, self.heard]
        image = self.norm4(image + self.cross_attn_image_to_token(coded_image, coded, heard))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two blocks and a last look of the tokens at the picture. Only the `heard` tokens are attended to."""

    def __init__(self, heard: slice) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(first=i == 0, heard=heard) for i in range(2))
        self.final_attn_token_to_image = Attention(WIDTH, HEADS, inner=WIDTH // 2)
        self.norm_final_attn = nn.LayerNorm(WIDTH)

    def forward(self, image: Tensor, image_codes: Tensor, token_codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens `[b, n, 256]` and the picture `[b, h * w, 256]`."""
        tokens = token_codes
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_codes, image_codes)
        looked = self.final_attn_token_to_image(tokens + token_codes, image + image_codes, image)
        return self.norm_final_attn(tokens + looked), image


class MaskDecoder(nn.Module):
    """Masks, their quality, and whether the object is there at all.

    `sam1` is nano's: SAM 1 has no high-resolution maps, does not squash the IoU and has no occlusion token. That token
    listens there and is not heard, so that what SAM 1 learned stays as it was.
    """

    def __init__(self, *, sam1: bool) -> None:
        super().__init__()
        self.sam1 = sam1
        self.transformer = TwoWayTransformer(heard=slice(1 if sam1 else 0, None))
        self.iou_token = nn.Embedding(1, WIDTH)
        self.mask_tokens = nn.Embedding(MASKS, WIDTH)
        self.obj_score_token = nn.Embedding(1, WIDTH)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH // 4, kernel_size=2, stride=2),
            LayerNorm2d(WIDTH // 4),
            nn.GELU(),
            nn.ConvTranspose2d(WIDTH // 4, WIDTH // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP((WIDTH, WIDTH, WIDTH, WIDTH // 8)) for _ in range(MASKS))
        self.iou_prediction_head = MLP((WIDTH, WIDTH, WIDTH, MASKS))
        self.pred_obj_score_head = MLP((WIDTH, WIDTH, WIDTH, 1))
        if not sam1:
            self.conv_s0 = nn.Conv2d(WIDTH, WIDTH // 8, kernel_size=1)
            self.conv_s1 = nn.Conv2d(WIDTH, WIDTH // 4, kernel_size=1)

    def forward(
        self, image: Tensor, image_codes: Tensor, sparse: Tensor, dense: Tensor, fine: tuple[Tensor, Tensor] | None
    ) -> Answers:
        """Decode `[b, 256, h, w]` pictures with `[b, n, 256]` prompts; `fine` are the maps at strides 4 and 8."""
        batch, size_hw = len(image), image.shape[-2:]
        own = torch.cat((self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight))
        tokens = torch.cat((own.expand(batch, -1, -1), sparse), dim=1)
        pixels = (image + dense).flatten(2).transpose(1, 2)
        tokens, pixels = self.transformer(pixels, image_codes.flatten(2).transpose(1, 2), tokens)
        upscaled = self._upscale(pixels.transpose(1, 2).unflatten(2, size_hw), fine)
        mask_tokens = tokens[:, 2 : 2 + MASKS]
        weights = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        logits = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        ious = self.iou_prediction_head(tokens[:, 1])
        if not self.sam1:
            ious = ious.sigmoid()
        return Answers(logits.float(), ious.float(), mask_tokens, self.pred_obj_score_head(tokens[:, 0]).float())

    def _upscale(self, pixels: Tensor, fine: tuple[Tensor, Tensor] | None) -> Tensor:
        first, norm, act, second, last_act = self.output_upscaling
        x = first(pixels)
        if fine is not None:
            x = x + fine[1]
        x = second(act(norm(x)))
        if fine is not None:
            x = x + fine[0]
        out: Tensor = last_act(x)
        return out


def stable(logits: Tensor) -> Tensor:
    """Whether a mask hardly changes when its threshold moves by 0.05 either way, `[b, h, w] -> [b]` bool."""
    inner = (logits > 0.05).flatten(1).sum(1)
    outer = (logits > -0.05).flatten(1).sum(1)
    return torch.where(outer > 0, inner / outer, 1.0) >= 0.98
