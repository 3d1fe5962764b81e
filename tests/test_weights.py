"""A model by name, path or hub id: exactly its weights in a network, or one reason why not."""

import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from masklet.catalogue import MODELS
from masklet.errors import BadWeights, NoSpace
from masklet.model.config import NANO
from masklet.model.network import Features, Network, Points, Recollection
from masklet.renaming import to_hugging_face
from masklet.weights import (
    find_weights,
    infer_config,
    installed_models,
    load_network,
    model_hash,
    save_network,
    verify_model,
)

Weights = dict[str, Tensor]


def shapes(name: str) -> Weights:
    """Return a model's tensors without numbers."""
    with torch.device("meta"):
        return Network(MODELS[name].config).state_dict()


def filled(name: str) -> Weights:
    """Return random weights of a model's names and shapes, as many views of one small store, to keep files small."""
    empty = shapes(name)
    generator = torch.Generator().manual_seed(7)
    store = torch.randn(max(t.numel() for t in empty.values()) + 2 * len(empty), generator=generator)
    return {n: store[2 * i : 2 * i + t.numel()].view(t.shape) for i, (n, t) in enumerate(empty.items())}


def write_torch(weights: Weights, folder: Path) -> Path:
    torch.save({"model": weights}, folder / "weights.pt")
    return folder / "weights.pt"


def write_bare_torch(weights: Weights, folder: Path) -> Path:
    torch.save(weights, folder / "weights.pth")
    return folder / "weights.pth"


def write_safetensors(weights: Weights, folder: Path) -> Path:
    save_file({n: t.clone() for n, t in weights.items()}, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def write_hugging_face(weights: Weights, folder: Path) -> Path:
    """Write a folder as `save_pretrained` does."""
    save_file({n: t.clone() for n, t in to_hugging_face(weights).items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files do not outlive the test: networks are large."""
    yield tmp_path
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("sam2.1-tiny", write_torch),
        ("sam2-tiny", write_bare_torch),
        ("sam2.1-tiny", write_hugging_face),
        ("sam2-tiny", write_hugging_face),
        ("nano", write_safetensors),
        ("nano", write_torch),
    ],
)
def test_every_tensor_arrives_from_every_format(
    name: str, write: Callable[[Weights, Path], Path], folder: Path
) -> None:
    weights = filled(name)
    network = load_network(write(weights, folder), device="cpu")
    # A memory whose weights are no zeros is heard, in nano too.
    assert network.config == replace(MODELS[name].config, remembers=True)
    assert not network.training
    loaded = network.state_dict()
    assert loaded.keys() == weights.keys()
    assert [n for n in loaded if not torch.equal(loaded[n], weights[n])] == []


HAVE_A_FILE = [name for name in MODELS if name != "nano-fine"]


@pytest.mark.parametrize("name", HAVE_A_FILE)
def test_a_model_is_told_from_its_tensors(name: str) -> None:
    assert infer_config(shapes(name), Path("weights.pt")) == MODELS[name].config


@pytest.mark.parametrize("name", [name for name in HAVE_A_FILE if name != "nano"])
def test_a_model_is_told_from_hugging_face_names(name: str) -> None:
    assert infer_config(to_hugging_face(shapes(name)), Path("model.safetensors")) == MODELS[name].config


def without(weights: Weights, *beginnings: str) -> Weights:
    return {n: t for n, t in weights.items() if not n.startswith(beginnings)}


UNFIT: dict[str, tuple[Callable[[Weights], Mapping[str, Tensor]], str]] = {
    "one missing": (lambda w: without(w, "no_obj_ptr"), r"1 missing \(no_obj_ptr\)"),
    "many missing": (lambda w: without(w, "obj_ptr_proj"), r"6 missing \(obj_ptr_proj\.layers\.0\.weight, .*, .*\)"),
    "one too many": (lambda w: w | {"no_such": torch.ones(1)}, r"1 unknown \(no_such\)"),
    "another shape": (lambda w: w | {"no_obj_ptr": torch.ones(1, 255)}, r"1 of another shape \(no_obj_ptr\)"),
    "one dimension less": (lambda w: w | {"no_obj_ptr": torch.ones(256)}, r"1 of another shape \(no_obj_ptr\)"),
    "renamed": (
        lambda w: {f"module.{n}" if n == "no_obj_ptr" else n: t for n, t in w.items()},
        r"1 missing \(no_obj_ptr\); 1 unknown \(module\.no_obj_ptr\)",
    ),
    "not a number": (
        lambda w: w | {"no_obj_ptr": torch.full((1, 256), torch.nan)},
        "no_obj_ptr holds numbers that are not finite",
    ),
    "infinite": (
        lambda w: w | {"no_obj_ptr": torch.full((1, 256), torch.inf)},
        "no_obj_ptr holds numbers that are not finite",
    ),
    "another dtype": (
        lambda w: w | {"no_obj_ptr": torch.ones(1, 256, dtype=torch.int64)},
        r"no_obj_ptr holds torch\.int64",
    ),
    "SAM 1": (lambda _: {f"image_encoder.blocks.{i}.norm1.weight": torch.ones(8) for i in range(12)}, "a SAM 1"),
    "MobileSAM": (lambda _: {"image_encoder.layers.0.blocks.0.conv1.c.weight": torch.ones(8)}, "a SAM 1"),
    "another network": (lambda _: {"conv1.weight": torch.ones(8)}, r"no SAM 2 checkpoint \(0 trunk blocks\)"),
    "nothing": (lambda _: {}, r"no SAM 2 checkpoint \(0 trunk blocks\)"),
    "half a trunk": (
        lambda _: {f"image_encoder.trunk.blocks.{i}.norm1.weight": torch.ones(8) for i in range(6)},
        r"no SAM 2 checkpoint \(6 trunk blocks\)",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), UNFIT.values(), ids=UNFIT)
def test_weights_that_do_not_fit_are_refused_by_name(
    spoil: Callable[[Weights], Weights], said: str, folder: Path
) -> None:
    with pytest.raises(BadWeights, match=rf"weights\.pt.* {said}"):
        load_network(write_torch(spoil(filled("nano")), folder), device="cpu")


HALF_RENAMED: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "five points": (
        lambda w: w | {"prompt_encoder.point_embed.weight": torch.ones(5, 256)},
        r"4 missing \(sam_prompt_encoder\.point_embeddings\.0\.weight, .*1 unknown \(prompt_encoder\.point_embed",
    ),
    "copies that differ": (
        lambda w: w | {"shared_image_embedding.positional_embedding": torch.ones(2, 128)},
        r"1 unknown \(shared_image_embedding\.positional_embedding\)",
    ),
    "image model": (
        lambda w: {n: t for n, t in w.items() if not n.startswith(("memory_attention", "memory_encoder"))},
        r"\d+ missing \(memory_encoder",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), HALF_RENAMED.values(), ids=HALF_RENAMED)
def test_hugging_face_weights_that_do_not_fit_are_refused_by_name(
    spoil: Callable[[Weights], Weights], said: str, folder: Path
) -> None:
    with pytest.raises(BadWeights, match=said):
        load_network(write_bare_torch(spoil(to_hugging_face(filled("sam2.1-tiny"))), folder), device="cpu")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("sam2.1-tinny", "'sam2.1-tinny' is no file, .* Did you mean sam2.1-tiny"),
        ("sam2-base_plus", "Did you mean sam2-base-plus"),
        ("zzz", r"no known name\. Known: nano, nano-fine, sam2\.1-tiny"),
        ("", "'' is no file"),
        ("none.pt", "'none.pt' is no file"),
        ("checkpoints/sam2.1_hiera_tiny.pt", "tiny.pt' is no file"),
        ("checkpoints/model.safetensors", "safetensors' is no file"),
        ("/no/such/place", "'/no/such/place' is no file"),
        ("x" * 5000, "is no file"),
        ("a\0b", "is no file"),
        (Path(__file__).parent, "is a folder without model.safetensors: give the file itself"),
        (Path(__file__), "neither a checkpoint"),
        ("/dev/zero", "is no file"),
    ],
)
def test_model_that_is_not_there_is_refused_with_the_way_out(model: str | Path, said: str) -> None:
    with pytest.raises(BadWeights, match=said):
        load_network(model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99' is not here"),
        ({"device": "toaster"}, "device 'toaster' is not here"),
        ({"device": "meta"}, "device 'meta' is not here"),
        ({"device": ""}, "device '' is not here"),
        ({"dtype": "int8"}, "dtype 'int8' is not known: choose auto, float32, bfloat16, float16"),
    ],
)
def test_device_or_dtype_that_cannot_be_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(BadWeights, match=said):
        load_network("nano", **options)


def test_nano_is_stored_in_half_precision_and_runs_in_single() -> None:
    with safe_open(find_weights("nano"), "pt") as stored:
        names = list(stored.keys())
        assert {stored.get_slice(n).get_dtype() for n in names} == {"F16"}
        network = load_network("nano", device="cpu")
        assert network.config == NANO
        assert all(torch.equal(network.state_dict()[n], stored.get_tensor(n).float()) for n in names)
    assert network.dtype == torch.float32
    assert network.device == torch.device("cpu")
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_halved_weights_answer_alike_on_the_processor(dtype: str, tolerance: float) -> None:
    single, halved = load_network("nano", device="cpu"), load_network("nano", device="cpu", dtype=dtype)
    assert halved.dtype == getattr(torch, dtype)
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert iou_at(single, pixels) == pytest.approx(iou_at(halved, pixels), abs=tolerance)


@torch.inference_mode()
def iou_at(network: Network, pixels: Tensor) -> float:
    """Click in the middle, and return what the network thinks of its mask."""
    features: Features = network.see(pixels)
    image = network.recall(features, [Recollection([], [], 15)])
    middle = Points(torch.tensor([[[64.0, 64.0]]]), torch.tensor([[1]]))
    return float(network.decode(image, features.fine, middle, None).ious)


def test_saved_network_loads_again_to_the_last_bit(folder: Path) -> None:
    torch.manual_seed(0)
    network = Network(NANO)
    path = folder / "new" / "nano.safetensors"
    save_network(network, path, metadata={"edition": "2"})
    assert [p.name for p in path.parent.iterdir()] == ["nano.safetensors"]
    (folder / "ordinary").touch()
    assert path.stat().st_mode == (folder / "ordinary").stat().st_mode
    with safe_open(path, "pt") as stored:
        assert stored.metadata() == {"format": "masklet", "edition": "2"}
    loaded = load_network(path, device="cpu")
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in network.state_dict().items())


def test_a_nano_of_another_input_size_keeps_it(folder: Path) -> None:
    network = Network(NANO)
    network.take_pictures_of(1280)
    save_network(network, folder / "large.safetensors")
    assert load_network(folder / "large.safetensors", device="cpu").config.image_px == 1280
    save_network(Network(NANO), folder / "own.safetensors")
    assert load_network(folder / "own.safetensors", device="cpu").config.image_px == NANO.image_px


@pytest.mark.parametrize("said", ["0", "-1", "1e3", "4097", "9" * 5000, "\u0661", ""])
def test_an_input_size_that_is_none_is_refused(folder: Path, said: str) -> None:
    path = folder / "nano.safetensors"
    save_file(Network(NANO).state_dict(), path, metadata={"image_px": said})
    with pytest.raises(BadWeights, match=r"image_px must be 1\.\.4096"):
        load_network(path, device="cpu")


def test_same_network_gives_the_same_file_to_the_byte(folder: Path) -> None:
    network, notes = Network(NANO), {"edition": "2", "license": "Apache-2.0", "steps": "1", "seed": "0"}
    for name in ("one", "other"):
        save_network(network, folder / name, metadata=notes)
    assert (folder / "one").read_bytes() == (folder / "other").read_bytes()


def test_save_without_room_leaves_the_old_file_and_no_other(folder: Path) -> None:
    path = folder / "nano.safetensors"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(NoSpace, match=r"Cannot write .*nano\.safetensors"):
            save_network(Network(NANO), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert [p.name for p in folder.iterdir()] == ["nano.safetensors"]


def test_hash_names_the_weights_and_not_the_file(folder: Path) -> None:
    weights = filled("nano")
    name = model_hash(write_torch(weights, folder))
    assert name == model_hash(write_safetensors(weights, folder))
    assert name == model_hash(load_network(folder / "weights.pt", device="cpu"))
    assert len(name) == 12
    weights["no_obj_ptr"] = weights["no_obj_ptr"].clone()
    weights["no_obj_ptr"][0, 0] += 1e-3
    assert name != model_hash(write_torch(weights, folder))


def test_official_files_are_known_to_the_last_byte() -> None:
    official = [model for model in MODELS.values() if not model.config.is_nano]
    assert len(official) == 8
    assert len({model.sha256 for model in official}) == 8
    for model in official:
        assert model.sha256 is not None and len(bytes.fromhex(model.sha256)) == 32
        assert model.repository == f"facebook/{model.name.replace('-', '-hiera-', 1)}"
        assert model.url is not None and model.url.endswith(f"/{model.file}")
        stored = sum(t.numel() * 4 for t in shapes(model.name).values()) / 1e6
        assert stored == pytest.approx(model.size_mb, rel=0.002)


def test_nano_fine_is_nano_that_looks_at_larger_pictures_with_a_decoder_of_its_own() -> None:
    nano, fine = load_network("nano", device="cpu"), load_network("nano-fine", device="cpu")
    assert fine.config == replace(nano.config, image_px=1280)
    others = {n.split(".")[0] for n, t in fine.state_dict().items() if not torch.equal(t, nano.state_dict()[n])}
    assert others == {"sam_mask_decoder", "sam_prompt_encoder"}
    assert verify_model("nano-fine").startswith("nano-fine: ")


@pytest.mark.parametrize("name", ["nano", "nano-fine"])
def test_embedded_models_are_always_here_and_can_be_verified(name: str) -> None:
    [model] = [model for model in installed_models() if model.name == name]
    assert (model.source, model.licence) == ("embedded", "Apache-2.0")
    assert model.path is not None and model.path.stat().st_size / 1e6 == pytest.approx(model.size_mb, abs=0.1)
    assert verify_model(name).startswith(f"{name}: {model.path}, 14.5 million parameters, SHA-256 ")


def test_embedded_models_take_forty_megabytes_at_most() -> None:
    assert sum(model.size_mb for model in installed_models() if model.source == "embedded") <= 40
