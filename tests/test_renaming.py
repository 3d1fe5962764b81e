"""Official names and Hugging Face's, one to one, for every model; the real classes are asked in `parity`."""

import pytest
import torch
from torch import Tensor

from masklet.model.config import HIERA, sam2_config
from masklet.model.network import Network
from masklet.renaming import COPIED, STACKED, from_hugging_face, hugging_face_name, is_hugging_face, to_hugging_face

ALL = [(size, revision) for size in HIERA for revision in ("2.0", "2.1")]


def numbered(size: str, revision: str) -> dict[str, Tensor]:
    """Return small tensors under a model's official names, each recognisable."""
    with torch.device("meta"):
        names = Network(sam2_config(size, revision)).state_dict()
    return {name: torch.full((1, 2), float(i)) for i, name in enumerate(names)}


@pytest.mark.parametrize(("size", "revision"), ALL)
def test_every_name_goes_there_and_back(size, revision):
    weights = numbered(size, revision)
    renamed = to_hugging_face(weights)
    assert len(renamed) == len(weights) - 4 + 1 + 1  # four rows become one tensor, one tensor is there twice
    back = from_hugging_face(renamed, weights)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize(("size", "revision"), ALL)
def test_no_two_names_become_one_and_none_stays_official_by_mistake(size, revision):
    names = [name for name in numbered(size, revision) if ".point_embeddings." not in name]
    renamed = [hugging_face_name(name) for name in names]
    assert len(set(renamed)) == len(renamed)
    official = ("image_encoder", "trunk", "sam_", "maskmem", "obj_ptr", "no_obj_", "no_mem_", "out_proj", "gamma")
    assert [name for name in renamed if any(word in name for word in official)] == []


@pytest.mark.parametrize(
    ("official", "theirs"),
    [
        ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
        ("no_obj_ptr", "no_object_pointer"),
        ("obj_ptr_proj.layers.2.bias", "object_pointer_proj.proj_out.bias"),
        ("obj_ptr_tpos_proj.weight", "temporal_positional_encoding_projection_layer.weight"),
        ("image_encoder.trunk.blocks.3.mlp.layers.1.bias", "vision_encoder.backbone.blocks.3.mlp.proj_out.bias"),
        ("image_encoder.trunk.blocks.0.norm1.weight", "vision_encoder.backbone.blocks.0.layer_norm1.weight"),
        ("image_encoder.neck.convs.2.conv.weight", "vision_encoder.neck.convs.2.weight"),
        ("memory_encoder.mask_downsampler.encoder.7.bias", "memory_encoder.mask_downsampler.layers.2.layer_norm.bias"),
        ("memory_encoder.mask_downsampler.encoder.12.bias", "memory_encoder.mask_downsampler.final_conv.bias"),
        ("memory_encoder.fuser.layers.1.gamma", "memory_encoder.memory_fuser.layers.1.scale"),
        ("memory_encoder.out_proj.bias", "memory_encoder.projection.bias"),
        (
            "memory_attention.layers.0.cross_attn_image.out_proj.weight",
            "memory_attention.layers.0.cross_attn_image.o_proj.weight",
        ),
        (
            "sam_mask_decoder.output_hypernetworks_mlps.3.layers.1.weight",
            "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight",
        ),
        ("sam_mask_decoder.iou_prediction_head.layers.0.bias", "mask_decoder.iou_prediction_head.proj_in.bias"),
        ("sam_mask_decoder.output_upscaling.1.weight", "mask_decoder.upscale_layer_norm.weight"),
        ("sam_prompt_encoder.mask_downscaling.4.weight", "prompt_encoder.mask_embed.layer_norm2.weight"),
    ],
)
def test_names_that_the_published_conversion_gives(official, theirs):
    assert hugging_face_name(official) == theirs


def test_points_are_rows_in_the_order_of_their_labels():
    weights = numbered("tiny", "2.1")
    stacked = to_hugging_face(weights)[STACKED]
    rows = [weights[f"sam_prompt_encoder.point_embeddings.{i}.weight"] for i in range(4)]
    assert torch.equal(stacked, torch.cat(rows))


def test_a_copy_that_differs_is_left_for_the_loader_to_refuse():
    weights = numbered("tiny", "2.1")
    renamed = to_hugging_face(weights)
    renamed[COPIED[1]] = renamed[COPIED[1]] + 1
    assert from_hugging_face(renamed, weights).keys() - weights.keys() == {COPIED[1]}


def test_a_name_that_nobody_knows_is_kept():
    weights = numbered("tiny", "2.1")
    renamed = to_hugging_face(weights) | {"something.else": torch.ones(1)}
    assert from_hugging_face(renamed, weights).keys() - weights.keys() == {"something.else"}


def test_the_two_ways_of_naming_are_told_apart():
    weights = numbered("tiny", "2.1")
    assert not is_hugging_face(weights)
    assert is_hugging_face(to_hugging_face(weights))
