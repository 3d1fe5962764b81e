"""Files that nobody vouches for: what is read from good ones, and how bad ones are refused without running them."""

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from masklet.checkpoint import read_tensors
from masklet.errors import BadWeights

WEIGHTS = {"weight": torch.arange(12.0).view(3, 4), "bias": torch.tensor([0.5, -1e-3]).bfloat16()}


def torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zip_file(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def rezipped(content: bytes, *, compression: int = zipfile.ZIP_STORED, table: Callable[[bytes], bytes]) -> bytes:
    """Rewrite a `.pt` with another table of contents."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return zip_file({n: table(c) if n.endswith("data.pkl") else c for n, c in parts.items()}, compression)


def script_file() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


class Runs:
    """Unpickling one runs a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


class Fills:
    """Unpickling one takes as much memory as it says."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (10**14,)


def padded_safetensors(header_bytes: int) -> bytes:
    """Write `WEIGHTS` under a header of that length, which is the file's first number."""
    content = save(WEIGHTS)
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].ljust(header_bytes)
    return struct.pack("<Q", header_bytes) + header + content[8 + length :]


GOOD = {
    "official": torch_file({"model": WEIGHTS}),
    "bare state dict": torch_file(WEIGHTS),
    "from a training run": torch_file({"model": WEIGHTS, "epoch": 3, "optimizer": {"step": torch.tensor(7)}}),
    "parameters": torch_file({n: torch.nn.Parameter(t) for n, t in WEIGHTS.items()}),
    "a module's state dict": torch_file(torch.nn.ParameterDict(WEIGHTS).state_dict()),
    "safetensors": save(WEIGHTS),
    "safetensors that begin as a pickle does": padded_safetensors(0x0280),
    "safetensors that begin as a web page does": padded_safetensors(0x3C20),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_tensors_are_read_exactly(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    read = read_tensors(path)
    assert read.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


OFFICIAL, SAFE = GOOD["official"], GOOD["safetensors"]
BAD = {
    "empty": (b"", "is empty"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:74\nsize 156008466\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
    "error of a file store": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
    "error of an interface": (b'{"error":"Repository not found"}', "is a web page"),
    "noise": (bytes(range(256)) * 8, "neither a checkpoint (.pt) nor safetensors"),
    "a sentence": (b"Invalid username or password.", "neither a checkpoint (.pt) nor safetensors"),
    "safetensors cut in the header": (SAFE[:20], "cut short"),
    "safetensors cut in the numbers": (SAFE[:-1], "cut short"),
    "safetensors with a header of a terabyte": (struct.pack("<Q", 10**12) + SAFE[8:], "neither"),
    "safetensors with a header of a gigabyte": (struct.pack("<Q", 10**9) + SAFE[8:], "cut short"),
    "safetensors of whole numbers": (save({"a": torch.ones(2, dtype=torch.int64)}), "a holds torch.int64"),
    "safetensors of truth values": (save({"a": torch.ones(2, dtype=torch.bool)}), "a holds torch.bool"),
    "safetensors of eight bits": (save({"a": torch.ones(2).to(torch.float8_e4m3fn)}), "a holds torch.float8_e4m3fn"),
    "checkpoint cut in the middle": (OFFICIAL[: len(OFFICIAL) // 2], "cut short"),
    "checkpoint without its last byte": (OFFICIAL[:-1], "cut short"),
    "checkpoint of whole numbers": (
        torch_file({"model": {"a": torch.ones(2, dtype=torch.int64)}}),
        "a holds torch.int64",
    ),
    "checkpoint of complex numbers": (torch_file({"a": torch.ones(2, dtype=torch.complex64)}), "ComplexFloatStorage"),
    "checkpoint of numbers only": (torch_file({"model": {"a": 1.5}}), "a is a float, not a tensor"),
    "checkpoint without names": (torch_file([torch.ones(2)]), "no table of named tensors"),
    "checkpoint named by numbers": (torch_file({1: torch.ones(2)}), "no table of named tensors"),
    "one number posing as a terabyte": (
        torch_file({"a": torch.ones(1).expand(250, 10**9)}),
        "fewer numbers are stored",
    ),
    "tensor that is nowhere": (torch_file({"a": torch.ones(2, device="meta")}), "_rebuild_meta_tensor_no_storage"),
    "memory filler": (torch_file({"model": WEIGHTS, "more": Fills()}), ".bytearray, which is no tensor"),
    "whole module": (torch_file(torch.nn.Linear(2, 2)), "asks for torch.nn.modules.linear.Linear"),
    "TorchScript program": (script_file(), "TorchScript program"),
    "zip of something": (zip_file({"notes.txt": b"hello"}), "without a checkpoint in it"),
    "zip of a checkpoint": (zip_file({"sam2.pt": OFFICIAL}), "without a checkpoint in it"),
    "compressed checkpoint": (
        rezipped(OFFICIAL, compression=zipfile.ZIP_DEFLATED, table=lambda t: t),
        "holds compressed parts",
    ),
    "checkpoint with an endless table": (
        rezipped(OFFICIAL, table=lambda t: t + bytes(16_000_001)),
        "table of contents",
    ),
    "checkpoint with a broken table": (rezipped(OFFICIAL, table=lambda t: t[:-9]), "read safely"),
    "old bare pickle": (pickle.dumps({"a": 1}), "bare pickle"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_bad_file_is_refused_with_its_reason(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(BadWeights) as refusal:
        read_tensors(path)
    message = str(refusal.value)
    assert said in message
    assert str(path) in message
    assert "\n" not in message


def zip_bomb(command: str) -> bytes:
    return torch_file({"model": {**WEIGHTS, "image_encoder": Runs(command)}})


def hidden_bomb(command: str) -> bytes:
    """The same, in the words of a newer pickle that do not name what they run in one piece."""
    return rezipped(OFFICIAL, table=lambda _: pickle.dumps({"model": Runs(command)}, protocol=4))


def bare_bomb(command: str) -> bytes:
    return pickle.dumps(Runs(command), protocol=2)


@pytest.mark.parametrize("bomb", [zip_bomb, hidden_bomb, bare_bomb])
def test_pickle_that_runs_a_command_does_not_run_it(bomb: Callable[[str], bytes], tmp_path: Path) -> None:
    path, canary = tmp_path / "weights.pt", tmp_path / "canary"
    path.write_bytes(bomb(f"touch {canary}"))
    with pytest.raises(BadWeights):
        read_tensors(path)
    assert not canary.exists()
    if bomb is bare_bomb:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert canary.exists(), "the bomb is no bomb: this test proves nothing"


def test_refusal_names_what_the_file_wanted_to_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(zip_bomb("true"))
    with pytest.raises(BadWeights, match=r"asks for (posix|nt)\.system, .*nothing was run"):
        read_tensors(path)


@pytest.mark.parametrize("content", [OFFICIAL, SAFE], ids=["checkpoint", "safetensors"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_anywhere_gives_tensors_or_a_refusal(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(content) - 1))
    put = data.draw(st.binary(min_size=1, max_size=4))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[:at] + put + content[at + len(put) :])
    try:
        read = read_tensors(path)
    except BadWeights:
        return
    assert all(isinstance(tensor, Tensor) and tensor.is_floating_point() for tensor in read.values())


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=r"none\.pt cannot be read \(No such file"):
        read_tensors(tmp_path / "none.pt")
