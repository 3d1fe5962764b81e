"""Networks from files: a name, a path or a hub id in, a network with exactly those weights out.

Reads official `.pt` files (never running code in them), safetensors with official or Hugging Face names, and the
embedded model. Everything that does not fit to the last tensor is refused with `BadWeights`.
"""

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from masklet.catalogue import MODELS, Model
from masklet.errors import BadWeights
from masklet.files import draft_path, refusals
from masklet.model.config import HIERA, NANO, ModelConfig, sam2_config
from masklet.model.network import Network
from masklet.renaming import from_hugging_face, is_hugging_face

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

HASH_CHARACTERS = 12
MOST_NAMED = 3
"""So many of the tensors that do not fit are named in an error."""
HF_FILE = "model.safetensors"


def load_network(model: str | Path = "nano", *, device: str = "auto", dtype: str = "auto") -> Network:
    """Load a model by name, path or hub id (`owner/name`), ready for inference.

    `auto` takes CUDA, then Apple's MPS, then the processor; and float32, except bfloat16 on CUDA. Raises `BadWeights`.
    """
    chosen = _device(device)
    kind = _dtype(dtype, chosen)
    path = find_weights(model)
    weights = _read(path)
    config = _config(weights, path)
    network = Network(config)
    _fill(network, weights, path)
    return network.to(chosen, kind).eval().requires_grad_(False)


def find_weights(model: str | Path) -> Path:
    """Return the file of a model, fetching it from the hub if it is not here."""
    if str(model) in MODELS:
        known = MODELS[str(model)]
        return _embedded() if known.repository is None else _fetch(known)
    path = Path(model)
    if path.is_dir():
        if not (path / HF_FILE).is_file():
            raise BadWeights(f"{path} is a folder without {HF_FILE}: give the file itself")
        return path / HF_FILE
    if path.is_file():
        return path
    if path.suffix in (".pt", ".pth", ".safetensors") or str(model).count("/") != 1:
        close = difflib.get_close_matches(str(model), MODELS, n=2, cutoff=0.4)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        raise BadWeights(
            f"model {str(model)!r} is neither a known name, nor a file, nor a hub id{meant} "
            f"Known: {', '.join(MODELS)}; 'masklet models' says more"
        )
    return _from_hub(str(model), HF_FILE, advice="check the id, or download the file and give its path")


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
    """Check a model's SHA-256, where one is known, and that every tensor fits; return what was found."""
    path = find_weights(model)
    known = MODELS.get(model)
    digest = _sha256(path)
    if known is not None and known.sha256 is not None and digest != known.sha256:
        raise BadWeights(f"{path} has SHA-256 {digest}, but {model} has {known.sha256}: delete it and fetch it again")
    network = load_network(model, device="cpu")
    count = sum(p.numel() for p in network.parameters()) / 1e6
    compared = "as published" if known is not None and known.sha256 is not None else "no published one to compare"
    return f"{model}: {path}, {count:.1f} million parameters, SHA-256 {digest} ({compared})"


def save_network(network: Network, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network's weights as safetensors with official names; they load again with `load_network`."""
    path = Path(path)
    weights = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    with refusals(path), draft_path(path) as draft:
        save_file(weights, draft, metadata={"format": "masklet", **(metadata or {})})


def model_hash(network: Network) -> str:
    """Return a short name of these exact weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:HASH_CHARACTERS]


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file, on the processor."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise BadWeights(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    if not head:
        raise BadWeights(f"{path} is empty: download it again")
    if head.startswith(b"version https://git-lfs"):
        raise BadWeights(f"{path} is a Git LFS pointer, not the weights: run 'git lfs pull' there")
    if head.lstrip().startswith((b"<!", b"<html", b"<HTML", b'{"error')):
        raise BadWeights(f"{path} is a web page, not weights: the download failed, do it again")
    weights = _read_pickle(path) if head.startswith((b"PK\x03\x04", b"\x80")) else _read_safetensors(path)
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise BadWeights(f"{path}: {name} holds no floating-point numbers: this is no SAM 2 checkpoint")
        if not bool(tensor.isfinite().all()):
            raise BadWeights(f"{path}: {name} holds numbers that are not finite: the file is damaged")
    return weights


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Read an official `.pt` with the unpickler that builds tensors and containers and nothing else."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise BadWeights(
            f"{path} is not a checkpoint that can be read safely ({reason}): "
            "give an official SAM 2 .pt or a safetensors file"
        ) from error
    held = held.get("model", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise BadWeights(f"{path} holds no table of named tensors: give an official SAM 2 checkpoint")
    return held


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as held:
            return {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise BadWeights(
            f"{path} is neither a checkpoint (.pt) nor safetensors, or is cut short ({error}): download it again"
        ) from error


def _config(weights: Mapping[str, Tensor], path: Path) -> ModelConfig:
    """Tell which model of the family a file holds."""
    names = list(weights)
    if any(name.startswith("image_encoder.trunk.layers.") for name in names):
        return NANO
    prefix = "vision_encoder.backbone.blocks." if is_hugging_face(names) else "image_encoder.trunk.blocks."
    blocks = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    for size, trunk in HIERA.items():
        if len(blocks) == sum(trunk.depths):
            pointer_times = ("obj_ptr_tpos_proj.weight", "temporal_positional_encoding_projection_layer.weight")
            return sam2_config(size, "2.1" if any(name in weights for name in pointer_times) else "2.0")
    sam1 = any(name.startswith("image_encoder.blocks.") for name in names)
    what = "a SAM 1 checkpoint" if sam1 else f"no SAM 2 checkpoint ({len(blocks)} trunk blocks)"
    raise BadWeights(f"{path} is {what}: masklet reads SAM 2.0, SAM 2.1 and its own models")


def _fill(network: Network, weights: dict[str, Tensor], path: Path) -> None:
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
    network.load_state_dict(weights)


def _embedded() -> Path:
    path = Path(str(files("masklet") / "embedded" / "nano.safetensors"))
    if not path.is_file():
        raise BadWeights(f"the embedded model is missing ({path}): reinstall masklet")
    return path


def _local(model: Model) -> Path | None:
    if model.repository is None or model.file is None:
        return _embedded()
    for name in (model.file, HF_FILE):
        cached = try_to_load_from_cache(model.repository, name)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _fetch(model: Model) -> Path:
    """Return an official file from the cache or the hub, checked by its SHA-256 when it arrives."""
    local = _local(model)
    if local is not None:
        return local
    repository, file = model.repository or "", model.file or ""
    advice = f"download {model.url} and give its path to --model, or use nano, which needs no download"
    path = _from_hub(repository, file, advice=advice)
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
        raise BadWeights(f"{repository} is not on this machine and the hub cannot be reached: {advice}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BadWeights(f"{repository} cannot be fetched from the hub ({reason}): {advice}") from error


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadWeights(f"device {name!r} is not here: choose auto or cpu; 'masklet doctor' lists devices") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in kinds:
        raise BadWeights(f"dtype {name!r} is not known: choose auto, {', '.join(kinds)}")
    return kinds[name]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
