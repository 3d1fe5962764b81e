"""Models from the hub, asked of a hub on this machine by a masklet of its own process."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub import Hub, running_hub

from masklet.catalogue import MODELS
from masklet.model.network import Network
from masklet.weights import find_weights, load_network, model_hash

TINY = "facebook/sam2.1-hiera-tiny"
TINY_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_tiny.pt"

ASK = """
import json, sys, time
from dataclasses import replace
from masklet.catalogue import MODELS
from masklet.errors import BadWeights
from masklet.weights import installed_models, load_network, model_hash, verify_model

time.sleep = lambda seconds: None  # the hub's client tries again and again, and waits in between

def ask(verb, model):
    if verb == "publish":  # make the catalogue expect this file, as Meta's cannot be made here
        MODELS["sam2.1-tiny"] = replace(MODELS["sam2.1-tiny"], sha256=model)
    elif verb == "load":
        return model_hash(load_network(model, device="cpu"))
    elif verb == "verify":
        return verify_model(model)
    return [row.name for row in installed_models() if row.path]

for verb, model in json.loads(sys.argv[1]):
    try:
        print(json.dumps(ask(verb, model)))
    except BadWeights as problem:
        print(json.dumps(f"BadWeights: {problem}"))
"""


def ask(questions: list[tuple[str, str]], home: Path, **environment: str) -> list[str]:
    """Put questions to a fresh masklet: the hub's client reads its settings once."""
    settings = {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-W", "error", "-c", ASK, json.dumps(questions)]
    done = subprocess.run(
        command, env=os.environ | settings | environment, capture_output=True, text=True, check=True, timeout=120
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file as Meta publishes it; its numbers are one small store seen many times, so it has 10 MB and not 156."""
    with torch.device("meta"):
        empty = Network(MODELS["sam2.1-tiny"].config).state_dict()
    store = torch.randn(max(t.numel() for t in empty.values()), generator=torch.Generator().manual_seed(7))
    path = tmp_path_factory.mktemp("meta") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": {n: store[: t.numel()].view(t.shape) for n, t in empty.items()}}, path)
    yield path
    path.unlink()


@pytest.fixture
def hub(tiny: Path) -> Iterator[Hub]:
    shelf = {
        f"{TINY}/sam2.1_hiera_tiny.pt": tiny,
        "somebody/own-model/model.safetensors": find_weights("nano"),
        "somebody/notes/model.safetensors": Path(__file__),
    }
    with running_hub(shelf) as hub:
        yield hub


def test_models_are_fetched_once_and_then_work_offline(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    questions = [
        ("installed", ""),
        ("publish", digest),
        ("load", "sam2.1-tiny"),
        ("load", TINY),
        ("verify", "sam2.1-tiny"),
        ("installed", ""),
        ("load", "somebody/own-model"),
    ]
    tiny_name, own_name = model_hash(load_network(tiny, device="cpu")), model_hash("nano")
    before, _, by_name, by_id, verified, after, own = ask(questions, tmp_path, HF_ENDPOINT=hub.url)
    assert (before, after) == (["nano", "nano-fine"], ["nano", "nano-fine", "sam2.1-tiny"])
    assert (by_name, by_id, own) == (tiny_name, tiny_name, own_name)
    assert "39.0 million parameters" in verified and f"SHA-256 {digest} (as published)" in verified
    assert [asked for asked in hub.asked if asked.startswith("GET")] == [
        f"GET /{TINY}/resolve/main/sam2.1_hiera_tiny.pt",
        "GET /somebody/own-model/resolve/main/model.safetensors",
    ]

    hub.asked.clear()
    questions = [
        ("load", "sam2.1-tiny"),
        ("load", "somebody/own-model"),
        ("load", "somebody/other-model"),
        ("load", "sam2.1-small"),
        ("verify", "sam2.1-tiny"),
    ]
    by_name, own, other, small, verified = ask(questions, tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert hub.asked == []
    assert (by_name, own) == (tiny_name, own_name)
    assert "somebody/other-model is not on this machine and HF_HUB_OFFLINE is set: check the id" in other
    assert "sam2.1-hiera-small is not on this machine and HF_HUB_OFFLINE is set" in small
    assert "092824/sam2.1_hiera_small.pt and give its path to --model, or use nano, which needs no download" in small
    assert f"SHA-256 {digest}, but sam2.1-tiny has {MODELS['sam2.1-tiny'].sha256}: delete it" in verified


def test_what_the_hub_does_not_give_is_refused_with_the_way_out(hub: Hub, tmp_path: Path) -> None:
    questions = [
        ("load", "sam2.1-tiny"),
        ("installed", ""),
        ("load", "somebody/notes"),
        ("load", "somebody/nothing"),
        ("load", "some body/nothing"),
        ("load", "-/-"),
    ]
    false, after, notes, nothing, no_id, bad_id = ask(questions, tmp_path, HF_ENDPOINT=hub.url)
    assert false.startswith("BadWeights: sam2.1-tiny arrived with SHA-256 ")
    assert f"instead of {MODELS['sam2.1-tiny'].sha256} and was deleted" in false
    assert f"download {TINY_URL} and give its path to --model, or use nano" in false
    assert after == ["nano", "nano-fine"]
    assert "model.safetensors is neither a checkpoint (.pt) nor safetensors" in notes
    assert "somebody/nothing cannot be fetched from the hub (RepositoryNotFoundError: 404" in nothing
    assert "'some body/nothing' is no file, no hub id" in no_id
    assert "-/- cannot be fetched from the hub (HFValidationError: " in bad_id


def test_connection_that_breaks_or_never_comes_is_one_refusal(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = True
    broken, after = ask([("load", "sam2.1-tiny"), ("installed", "")], tmp_path, HF_ENDPOINT=hub.url)
    assert broken.startswith(f"BadWeights: {TINY} cannot be fetched from the hub (RemoteProtocolError: ")
    assert f"for sam2.1-tiny, download {TINY_URL} and give its path to --model, or use nano" in broken
    assert after == ["nano", "nano-fine"]

    unreachable, own = ask([("load", "sam2.1-tiny"), ("load", "nano")], tmp_path, HF_ENDPOINT="http://127.0.0.1:1")
    assert f"{TINY} is not on this machine and the hub cannot be reached: for sam2.1-tiny, download" in unreachable
    assert own == model_hash("nano")
