"""The models that masklet knows by name: their shape, where they come from, and how to tell the right file."""

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from masklet.model.config import NANO, ModelConfig, Revision, sam2_config


@dataclass(frozen=True)
class Model:
    """One model."""

    name: str
    config: ModelConfig
    size_mb: float
    file: str
    licence: str = "Apache-2.0"
    repository: str | None = None
    """On the Hugging Face hub; None for the embedded models."""
    shares: str | None = None
    """The model whose weights it has where its own file gives none."""
    sha256: str | None = None
    url: str | None = None
    """Where Meta itself publishes the file."""


def _official(size: str, revision: Revision, size_mb: float, sha256: str) -> Model:
    prefix = "sam2" if revision == "2.0" else "sam2.1"
    file = f"{prefix}_hiera_{size.replace('-', '_')}.pt"
    date = "072824" if revision == "2.0" else "092824"
    return Model(
        name=f"{prefix}-{size}",
        config=sam2_config(size, revision),
        size_mb=size_mb,
        file=file,
        repository=f"facebook/{prefix}-hiera-{size}",
        sha256=sha256,
        url=f"https://dl.fbaipublicfiles.com/segment_anything_2/{date}/{file}",
    )


MODELS = {
    model.name: model
    for model in (
        Model("nano", NANO, 29.0, "nano.safetensors"),
        Model("nano-fine", replace(NANO, image_px=1280), 8.1, "nano-fine.safetensors", shares="nano"),
        _official("tiny", "2.1", 156.0, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
        _official("small", "2.1", 184.4, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
        _official("base-plus", "2.1", 323.6, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
        _official("large", "2.1", 898.1, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
        _official("tiny", "2.0", 155.9, "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
        _official("small", "2.0", 184.3, "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
        _official("base-plus", "2.0", 323.5, "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
        _official("large", "2.0", 897.9, "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
    )
}
"""Quickest to try first: nano needs no download, 2.1 is better than 2.0."""
EMBEDDED = tuple(model for model in MODELS.values() if model.repository is None)
"""They need no download."""


def embedded_file(model: Model) -> Path:
    """Return where an embedded model should be."""
    return Path(str(files("masklet") / "embedded" / model.file))
