"""Networks from files: a name, a path or a hub id in, a network with exactly those weights out.

Reads official `.pt` files, safetensors with official or Hugging Face names, and the embedded model. Everything that
does not fit to the last tensor is refused with `BadWeights`.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save
from torch import Tensor

from masklet.catalogue import MODELS, Model, embedded_file
from masklet.checkpoint import read_notes, read_tensors
from masklet.errors import BadWeights
from masklet.files import atomic_write, make_folder
from masklet.model.config import HIERA, NANO, ModelConfig, sam2_config
from masklet.model.network import Network
from masklet.renaming import from_hugging_face, is_hugging_face

HASH_CHARACTERS = 12
MOST_NAMED = 3
"""So many of the tensors that do not fit are named in an error."""
HUB_FILE = "model.safetensors"
"""What a repository or folder of the hub's making calls its weights."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.pt)(?<!\.pth)(?<!\.safetensors)")
SAM_1 = ("image_encoder.blocks.", "image_encoder.layers.", "vision_encoder.layers.")
"""Beginnings of the trunk's names in SAM 1, MobileSAM, and SAM 1 at Hugging Face."""
POINTER_TIMES = ("obj_ptr_tpos_proj.weight", "temporal_positional_encoding_projection_layer.weight")
"""In revision 2.1 and not in 2.0; officially and at Hugging Face."""
HEARD = "memory_attention.layers.0.cross_attn_image.out_proj.weight"
"""All zero in a nano whose memory was never trained: then nothing that is remembered is heard, and none is kept."""
INPUT_PX, MOST_PX = "image_px", 4096
"""A note in the file of a nano that was trained for another input size than nano's own, and its limit."""
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_network(model: str | Path = "nano", *, device: str = "auto", dtype: str = "auto") -> Network:
    """Load a model by name, path or hub id (`owner/name`), ready for inference.

    `auto` takes CUDA, then Apple's MPS, then the processor; and float32, except bfloat16 on CUDA. Raises `BadWeights`.
    """
    chosen = _device(device)
    kind = _dtype(dtype, chosen)
    path, known = find_weights(model), MODELS.get(str(model))
    weights = read_tensors(path)
    if known is not None and known.shares is not None:
        weights = {**read_tensors(find_weights(known.shares)), **weights}
    config = infer_config(weights, path)
    if config.is_nano and HEARD in weights:
        image_px = _input_px(path) if known is None else known.config.image_px
        config = replace(config, remembers=bool(weights[HEARD].any()), image_px=image_px)
    network = Network(config)
    _fill(network, weights, path)
    return network.to(chosen, kind).eval().requires_grad_(False)


def find_weights(model: str | Path) -> Path:
    """Return the file of a model, fetching it from the hub if it is not here."""
    name = str(model)
    known = next((known for known in MODELS.values() if name in (known.name, known.repository)), None)
    if known is not None:
        return _embedded(known) if known.repository is None else _fetch(known)
    if os.path.isdir(name):
        file = Path(name, HUB_FILE)
        if not file.is_file():
            raise BadWeights(f"{name} is a folder without {HUB_FILE}: give the file itself")
        return file
    if os.path.isfile(name):  # unlike Path.is_file, no error for a name that cannot be one
        return Path(name)
    if HUB_ID.fullmatch(name):
        return _from_hub(name, HUB_FILE, advice="check the id, or download the file and give its path")
    close = difflib.get_close_matches(name, MODELS, n=2, cutoff=0.4)
    meant = f". Did you mean {' or '.join(close)}?" if close else "."
    raise BadWeights(
        f"model {name!r} is no file, no hub id (owner/name) and no known name{meant} "
        f"Known: {', '.join(MODELS)}; 'masklet models' says more"
    )


@dataclass(frozen=True)
class Installed:
    """A known model and where it is."""

    name: str
    size_mb: float
    licence: str
    source: str
    """Hub id, or `embedded`."""
    path: Path | None
    """None: not on this machine yet."""


def installed_models() -> tuple[Installed, ...]:
    """Return every known model; nothing is fetched."""
    return tuple(
        Installed(m.name, m.size_mb, m.licence, m.repository or "embedded", _local(m)) for m in MODELS.values()
    )


def verify_model(model: str) -> str:
    """Check a model's SHA-256, where one is published, and that every tensor fits; return what was found."""
    path = find_weights(model)
    known, digest = MODELS.get(model), _sha256(path)
    # Only the official file has a published hash; what transformers left in the cache is another file.
    published = known.sha256 if known is not None and path.name == known.file else None
    if published is not None and digest != published:
        raise BadWeights(f"{path} has SHA-256 {digest}, but {model} has {published}: delete it and fetch it again")
    network = load_network(model, device="cpu")
    if known is not None and network.config != known.config:
        raise BadWeights(f"{path} holds another model than {model}: delete it and fetch it again")
    count = sum(p.numel() for p in network.parameters()) / 1e6
    compared = "no published one to compare" if published is None else "as published"
    return f"{model}: {path}, {count:.1f} million parameters, SHA-256 {digest} ({compared})"


def save_network(network: Network, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network's weights as safetensors with official names; they load again with `load_network`.

    So does the input size of a nano. The same weights and metadata give the same file to the byte.
    """
    px = network.config.image_px
    own_size = {INPUT_PX: str(px)} if network.config.is_nano and px != NANO.image_px else {}
    write_tensors(network.state_dict(), Path(path), {**(metadata or {}), **own_size})


def write_tensors(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors as a safetensors file."""
    make_folder(path.parent)
    with atomic_write(path) as draft:  # not by safetensors itself, whose files nobody else may read
        draft.write(_packed(weights, metadata))


def _packed(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file with a sorted header; the library orders its metadata at random."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    data = save(tensors, {"format": "masklet", **metadata})
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of eight bytes
    return len(header).to_bytes(8, "little") + header + data[start:]


def model_hash(model: Network | str | Path) -> str:
    """Return a short name of exact weights, the same whichever file or format they came from."""
    network = model if isinstance(model, Network) else load_network(model, device="cpu", dtype="float32")
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().float().contiguous().numpy())
    return digest.hexdigest()[:HASH_CHARACTERS]


def infer_config(weights: Mapping[str, Tensor], path: Path) -> ModelConfig:
    """Tell which model of the family a file holds."""
    if any(name.startswith("image_encoder.trunk.layers.") for name in weights):
        return NANO
    prefix = "vision_encoder.backbone.blocks." if is_hugging_face(weights) else "image_encoder.trunk.blocks."
    blocks = {name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)}
    for size, trunk in HIERA.items():
        if len(blocks) == sum(trunk.depths):
            return sam2_config(size, "2.1" if any(name in weights for name in POINTER_TIMES) else "2.0")
    other = any(name.startswith(SAM_1) for name in weights)
    what = "a SAM 1 checkpoint" if other else f"no SAM 2 checkpoint ({len(blocks)} trunk blocks)"
    raise BadWeights(f"{path} is {what}: masklet reads SAM 2.0, SAM 2.1 and its own models")


def _input_px(path: Path) -> int:
    """Return the long side of the pictures that a nano in a file was trained for."""
    said = read_notes(path).get(INPUT_PX, str(NANO.image_px))
    if not (said.isascii() and said.isdigit() and len(said) <= len(str(MOST_PX)) and 0 < int(said) <= MOST_PX):
        raise BadWeights(f"{path} asks for pictures of {said[:20]!r} px: {INPUT_PX} must be 1..{MOST_PX}")
    return int(said)


def _fill(network: Network, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights into a network that must take every one of them and miss none."""
    own = network.state_dict()
    if is_hugging_face(weights):
        weights = from_hugging_face(weights, own)
    problems = {
        "missing": [name for name in own if name not in weights],
        "unknown": [name for name in weights if name not in own],
        "of another shape": [n for n in own if n in weights and own[n].shape != weights[n].shape],
    }
    said = [f"{len(bad)} {how} ({', '.join(bad[:MOST_NAMED])})" for how, bad in problems.items() if bad]
    if said:
        raise BadWeights(f"{path} does not fit: tensors {'; '.join(said)}. Give a complete SAM 2 checkpoint")
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise BadWeights(f"{path}: {name} holds numbers that are not finite: the file is damaged")
    network.load_state_dict(weights)


def _embedded(model: Model) -> Path:
    path = embedded_file(model)
    if not path.is_file():
        raise BadWeights(f"the embedded model {model.name} is missing ({path}): reinstall masklet")
    return path


def _local(model: Model) -> Path | None:
    """Return where a known model is on this machine; the official file, or else what transformers uses."""
    if model.repository is None:
        return _embedded(model)
    for name in (model.file, HUB_FILE):
        cached = try_to_load_from_cache(model.repository, name)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _fetch(model: Model) -> Path:
    """Return an official file from the cache or the hub, checked by its SHA-256 when it arrives."""
    local = _local(model)
    if local is not None:
        return local
    advice = f"download {model.url} and give its path to --model, or use nano, which needs no download"
    path = _from_hub(model.repository or "", model.file, advice=f"for {model.name}, {advice}")
    if (digest := _sha256(path)) != model.sha256:
        path.resolve().unlink()
        raise BadWeights(
            f"{model.name} arrived with SHA-256 {digest} instead of {model.sha256} and was deleted: try again; {advice}"
        )
    return path


def _from_hub(repository: str, file: str, *, advice: str) -> Path:
    try:
        return Path(hf_hub_download(repository, file))
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else "the hub cannot be reached"
        raise BadWeights(f"{repository} is not on this machine and {why}: {advice}") from error
    except Exception as error:  # its client also lets through what its transport raises, which differs by version
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        raise BadWeights(f"{repository} cannot be fetched from the hub ({reason}): {advice}") from error


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # `meta` is a device that holds nothing
    except (RuntimeError, AssertionError) as error:
        raise BadWeights(f"device {name!r} is not here: choose auto or cpu; 'masklet doctor' lists devices") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in KINDS:
        raise BadWeights(f"dtype {name!r} is not known: choose auto, {', '.join(KINDS)}")
    return KINDS[name]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
