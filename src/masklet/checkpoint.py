"""Named tensors from a file that nobody vouches for: an official `.pt`, or safetensors.

Knows the two formats and what is wrong with a file; knows no names and no shapes. Whatever the file holds, no code of
it runs and nothing of it is inflated; everything else than a table of plain tensors is refused with `BadWeights`.
"""

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from masklet.errors import BadWeights

MOST_TABLE_BYTES = 16_000_000
"""Of the table of contents in a `.pt`; the official ones have 0.1 MB."""
NAMED = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Bool")),
}
"""All that the table in a `.pt` of tensors has to name. torch's own list is longer: `bytearray` fills a memory."""
NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors in a file by name, on the processor, mapped from the file where it allows that."""
    head = _head(path)
    if _begins_safetensors(head):
        weights = _read_safetensors(path)
    elif head.startswith(b"PK\x03\x04"):
        weights = _read_torch(path)
    else:
        raise BadWeights(f"{path} is {_guess(head)}")
    for name, tensor in weights.items():
        _check(name, tensor, path)
    return weights


def read_notes(path: Path) -> Mapping[str, str]:
    """Return what safetensors say beside their tensors; other formats say nothing."""
    if not _begins_safetensors(_head(path)):
        return {}
    with _open_safetensors(path) as held:
        return held.metadata() or {}


def _begins_safetensors(head: bytes) -> bool:
    """Tell by what follows the first bytes: they are a number, which may look like any other format."""
    return head[4:9] == b"\0\0\0\0{"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise BadWeights(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error


def _guess(head: bytes) -> str:
    """Say what a file is that is no weights, and the way out."""
    if not head:
        return "empty: download it again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights: run 'git lfs pull' there"
    if head.lstrip().startswith((b"<", b'{"error')):
        return "a web page, not weights: the download failed, do it again"
    if head.startswith(b"\x80"):
        return "a bare pickle, which could run code: save it again with a newer torch"
    return "neither a checkpoint (.pt) nor safetensors: give an official SAM 2 checkpoint"


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        _refuse_traps(path)
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except BadWeights:
        raise
    except zipfile.BadZipFile as error:
        raise BadWeights(f"{path} is cut short or damaged ({error}): download it again") from error
    except Exception as error:  # the unpickler meets hostile bytes: it may fail in any way
        reason = str(error).split("\n")[0].split(". ")[0]
        raise BadWeights(f"{path} is no checkpoint that can be read safely ({reason}): give an official one") from error
    held = held.get("model", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise BadWeights(f"{path} holds no table of named tensors: give an official SAM 2 checkpoint")
    return held


def _refuse_traps(path: Path) -> None:
    """Look at a `.pt` before torch does: it stores its parts as they are, and its table names nothing but tensors."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename.rpartition("/")[2]: part for part in archive.infolist()}
        if "constants.pkl" in parts:
            raise BadWeights(f"{path} is a TorchScript program, not weights: give the checkpoint it was made from")
        if "data.pkl" not in parts:
            raise BadWeights(f"{path} is a zip file without a checkpoint in it: unpack it and give the file inside")
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise BadWeights(f"{path} holds compressed parts, which torch never writes: give an official checkpoint")
        if parts["data.pkl"].file_size > MOST_TABLE_BYTES:
            raise BadWeights(f"{path} has a table of contents above {MOST_TABLE_BYTES} bytes: give an official one")
        table = archive.read(parts["data.pkl"])
    for operation, argument, _ in pickletools.genops(table):
        if operation.name == "GLOBAL" and argument not in NAMED:
            name = str(argument).replace(" ", ".")
            raise BadWeights(f"{path} asks for {name}, which is no tensor (nothing was run): give an official one")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _open_safetensors(path) as held:
        return {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    """Open a file; whatever goes wrong with it, now or later, is `BadWeights`."""
    try:
        with safe_open(path, framework="pt") as held:
            yield held
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise BadWeights(f"{path} is damaged or cut short ({error}): download it again") from error


def _check(name: str, tensor: object, path: Path) -> None:
    """Refuse what only looks like a tensor of numbers; the numbers themselves are not touched."""
    if not isinstance(tensor, Tensor):
        raise BadWeights(f"{path}: {name} is a {type(tensor).__name__}, not a tensor: give a SAM 2 checkpoint")
    if tensor.dtype not in NUMBERS:
        raise BadWeights(f"{path}: {name} holds {tensor.dtype}, not floating-point numbers: give a SAM 2 checkpoint")
    # A tensor may repeat what is stored; a few bytes would then pose as any amount of numbers.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise BadWeights(f"{path}: {name} claims shape {tuple(tensor.shape)}, but fewer numbers are stored")
