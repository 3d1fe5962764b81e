"""Seeded random weights that hear their memory.

With plain random weights the memory path moves the logits by less than a millionth, so a tracker with wrong memory
rules passes every comparison. Here the memory path is amplified until a change of ten per cent in any of its
parameters moves the logits by more than the tolerance (`test_sensitivity.py`). No value is left at the constant it is
initialised with, and no two layers are alike, so nothing can be forgotten or swapped unnoticed.

Two more things make a comparison of float32 runs possible. Masks are smooth: in noise, cells that lie within rounding
of zero open and close holes. And the gain stays below one: more of it and rounding grows from frame to frame.
"""

import contextlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

SPREADS = (
    (r".*\.gamma", 0.5, 0.2),  # as trained; the initial 1e-6 would hide the whole block
    (r".*(gaussian_matrix|point_embeddings\.\d\.weight|not_a_point_embed\.weight|no_mask_embed\.weight)", 0.0, 1.0),
    (r".*(iou_token|mask_tokens|obj_score_token)\.weight", 0.0, 1.0),
    (r".*pos_embed.*", 0.0, 0.1),
    (r"(maskmem_tpos_enc|no_mem_.*|no_obj_.*)", 0.0, 0.02),
    (r"sam_mask_decoder\.pred_obj_score_head\.layers\.2\.bias", 2.5, 0.04),
    (r".*\.bias", 0.0, 0.04),
)
"""Mean and deviation by name; other vectors are layer norms, other weights have the usual deviation by fan-in."""
FACTORS = (
    (r"memory_attention\.layers\.\d+\.cross_attn_image\.[qk]_proj\.weight", 2.0),
    (r"memory_attention\.layers\.\d+\.cross_attn_image\.v_proj\.weight", 2.0),
    (r"memory_attention\.layers\.\d+\.cross_attn_image\.out_proj\.weight", 0.3),
    (r"memory_attention\.layers\.\d+\.self_attn\.[qk]_proj\.weight", 3.0),
    (r"memory_attention\.layers\.\d+\.linear2\.weight", 3.0),
    (r"maskmem_tpos_enc", 30.0),
    (r"obj_ptr_proj\.layers\.2\..*", 5.0),
    (r"obj_ptr_tpos_proj\..*", 8.0),
    (r"no_obj_.*", 10.0),
    (r"sam_mask_decoder\.output_hypernetworks_mlps\.\d\.layers\.2\..*", 24.0),
    (r"sam_mask_decoder\..*\.v_proj\.weight", 3.0),
    (r"sam_mask_decoder\.iou_prediction_head\.layers\.2\.weight", 10.0),
    (r"sam_mask_decoder\.pred_obj_score_head\.layers\.2\.weight", -50.0),
    (r"sam_prompt_encoder\.mask_downscaling\.6\.weight", 0.3),
    (r"sam_mask_decoder\.conv_s[01]\.weight", 0.3),
    (r"memory_encoder\.mask_downsampler\.encoder\.12\.weight", 0.15),  # one pixel's sign must not matter much
    (r"memory_encoder\.out_proj\.weight", 4.0),
)
UPSCALING = r"sam_mask_decoder\.output_upscaling\.[03]\.weight"
ROUGHNESS = 0.2
"""How much the four cells that a cell is enlarged to differ."""
BALANCED = r"sam_mask_decoder\.output_hypernetworks_mlps\.\d\.layers\.2\..*"
"""Its outputs sum to nothing, else masks are mostly all or nothing: what they are multiplied with is positive."""


def amplified(shapes: Mapping[str, torch.Size], *, seed: int = 0) -> dict[str, Tensor]:
    """Return weights for these official names and shapes. A name's values depend on name, shape and seed only."""
    return {name: _values(name, shape, seed) for name, shape in shapes.items()}


def _values(name: str, shape: torch.Size, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    mean, spread = next(((m, s) for pattern, m, s in SPREADS if re.fullmatch(pattern, name)), (None, None))
    if mean is None or spread is None:
        fan_in = shape[1:].numel() if "output_upscaling" not in name else shape[0]
        mean, spread = (1.0, 0.2) if len(shape) == 1 else (0.0, (3 * fan_in) ** -0.5)
    factor = next((f for pattern, f in FACTORS if re.fullmatch(pattern, name)), 1.0)
    values = torch.randn(shape, generator=generator)
    if re.fullmatch(UPSCALING, name):
        values = values[..., :1, :1] + ROUGHNESS * values
    if re.fullmatch(BALANCED, name):
        values = values - values.mean(0)
    return (mean + spread * values) * factor


@contextlib.contextmanager
def shaken(network: nn.Module, part: str) -> Iterator[None]:
    """Make each value of a part ten per cent larger or smaller for a while; `name[i]` is one row of a parameter.

    All larger would not do: a norm behind a convolution takes that back.
    """
    name, _, row = part.removesuffix("]").partition("[")
    own = [p for n, p in network.named_parameters() if n == name or n.startswith(f"{name}.")]
    assert own, f"there is no {part}"
    changed: list[Tensor] = [p[int(row)] if row else p for p in own]
    signs = torch.Generator().manual_seed(8)
    with restored(changed):
        for p in changed:
            p.mul_(1 + 0.1 * (2 * torch.randint(2, p.shape, generator=signs) - 1))
        yield


@contextlib.contextmanager
def restored(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Give tensors back the values that they have now, whatever the block makes of them."""
    saved = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, before in zip(tensors, saved, strict=True):
            tensor.copy_(before)
