"""Hugging Face's names for SAM 2's parameters, to and from the official ones.

The rules follow the published conversion (`convert_sam2_video_to_hf.py` of transformers); a test checks that they are
one to one and that the real classes of both sides accept the result.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

THREE_LAYERS = r"(iou_prediction_head|pred_obj_score_head|obj_ptr_proj|output_hypernetworks_mlps\.\d)"
RULES = (
    (rf"{THREE_LAYERS}\.layers\.0\.", r"\1.proj_in."),
    (rf"{THREE_LAYERS}\.layers\.1\.", r"\1.layers.0."),
    (rf"{THREE_LAYERS}\.layers\.2\.", r"\1.proj_out."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"mask_downsampler\.encoder\.12\.", "mask_downsampler.final_conv."),
    (r"mask_downsampler\.encoder\.(\d+)\.", lambda m: _downsampler(int(m[1]))),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"obj_ptr_tpos_proj", "temporal_positional_encoding_projection_layer"),
    (r"no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    (r"maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    (r"no_mem_embed", "no_memory_embedding"),
    (r"no_mem_pos_enc", "no_memory_positional_encoding"),
    (r"obj_ptr", "object_pointer"),
    (r"sam_prompt_encoder", "prompt_encoder"),
    (r"sam_mask_decoder", "mask_decoder"),
    (r"image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"pix_feat_proj", "feature_projection"),
    (r"memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"fuser", "memory_fuser"),
    (r"dwconv", "depthwise_conv"),
    (r"pwconv", "pointwise_conv"),
    (r"gamma", "scale"),
    (r"\.norm", ".layer_norm"),
    (r"out_proj", "o_proj"),
)
"""Applied in order to official names."""
POINTS = 4
"""Meanings of a point: background, object, and the two corners of a box."""
POINT = "sam_prompt_encoder.point_embeddings."
STACKED = "prompt_encoder.point_embed.weight"
"""Hugging Face keeps the four official point embeddings as rows of one."""
COPIED = ("prompt_encoder.shared_embedding.positional_embedding", "shared_image_embedding.positional_embedding")
"""Hugging Face keeps this one twice."""


def hugging_face_name(name: str) -> str:
    """Translate one official name; the four point embeddings have no name of their own there."""
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def to_hugging_face(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a whole official state dict."""
    renamed = {hugging_face_name(n): t for n, t in weights.items() if not n.startswith(POINT)}
    points = [weights[f"{POINT}{i}.weight"] for i in range(POINTS)]
    return renamed | {STACKED: torch.cat(points), COPIED[1]: renamed[COPIED[0]]}


def from_hugging_face(weights: Mapping[str, Tensor], official: Iterable[str]) -> dict[str, Tensor]:
    """Rename back to the names in `official`; what has no counterpart keeps its name, for the loader to refuse."""
    back = {hugging_face_name(name): name for name in official if not name.startswith(POINT)}
    renamed = {back.get(name, name): tensor for name, tensor in weights.items()}
    if STACKED in weights and weights[STACKED].shape[:1] == (POINTS,):
        renamed |= {f"{POINT}{i}.weight": row for i, row in enumerate(renamed.pop(STACKED).split(1))}
    if all(name in weights for name in COPIED) and _same(*(weights[name] for name in COPIED)):
        del renamed[COPIED[1]]
    return renamed


def is_hugging_face(names: Iterable[str]) -> bool:
    """Whether a state dict has Hugging Face's names."""
    return any(name.startswith("vision_encoder.") for name in names)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _downsampler(position: int) -> str:
    kind = "conv" if position % 3 == 0 else "layer_norm"
    return f"mask_downsampler.layers.{position // 3}.{kind}."
