"""Make one nano of several trainings: the mean of their weights, in half precision.

    python scripts/average_nano.py RUN/model.safetensors ... --out trained.safetensors
    python scripts/average_nano.py RUN/model.safetensors ... nano nano --out nano-fine.safetensors --only-new

Trainings that began with the same weights and saw other clips end near each other, and their mean is better than each
of them (model soups, Wortsman et al., arXiv 2203.05482); so is the mean of what was trained and what it began with, on
what the training did not show (Wortsman et al., arXiv 2109.01903). It says how much the masks of half precision differ
from those of single precision on the example clip: the least overlap of an object on any frame.
"""

import argparse
import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklet import Session, load_network
from masklet.metrics import region_similarity
from masklet.model.network import Network
from masklet.weights import model_hash, save_network, write_tensors

EXAMPLE = Path(__file__).parents[1] / "examples/bunny.mp4"
CLICKS = {"bunny": (245.0, 60.0), "rock": (510.0, 190.0)}
METADATA = {
    "source": "MobileSAM (TinyViT-5M) and Segment Anything, trained on by masklet: docs/nano.md",
    "license": "Apache-2.0",
}


def main() -> None:
    """Average, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="+", help="weights that `masklet train` wrote, and nano; the first says the size"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only-new", action="store_true", help="leave out the tensors that nano has too")
    arguments = parser.parse_args()
    exact = mean([load_network(model, dtype="float32") for model in arguments.models])
    nano = load_network(device="cpu", dtype="float16")
    nano.take_pictures_of(exact.config.image_px)
    halved = copy.deepcopy(exact).half()
    new = what_differs(halved, nano)
    if arguments.only_new:
        write_tensors(new, arguments.out, METADATA)
    else:
        save_network(halved, arguments.out, metadata=METADATA)
    digest = hashlib.sha256(arguments.out.read_bytes()).hexdigest()
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, sha256 {digest}")
    nano.load_state_dict(new, strict=False)  # not `halved`: a mean's -0.0 may be nano's 0.0, and the hash tells them
    pairs = zip(masks(exact), masks(nano.float()), strict=True)
    least = min(
        region_similarity(one, other) for ones, others in pairs for one, other in zip(ones, others, strict=True)
    )
    print(f"model hash {model_hash(nano)}; half and single precision: least overlap on the example clip {least:.4f}")


@torch.no_grad()
def mean(networks: list[Network]) -> Network:
    """Return the first network with the mean of all parameters."""
    rows = zip(*(network.parameters() for network in networks), strict=True)
    for parameters in rows:
        parameters[0].copy_(torch.stack([p.detach() for p in parameters]).mean(0))
    return networks[0]


def what_differs(network: Network, known: Network) -> dict[str, Tensor]:
    """Return the weights of a network that another one has otherwise."""
    others = known.state_dict()
    return {name: weights for name, weights in network.state_dict().items() if not torch.equal(weights, others[name])}


def masks(network: Network) -> Iterator[NDArray[np.bool_]]:
    """Yield the masks `[n, h, w]` of each frame of the example clip, as the README's first command asks for them."""
    with Session(EXAMPLE, network) as session:
        for name, xy in CLICKS.items():
            session.add_click(name, 0, *xy)
        for found in session.track():
            yield found.masks


if __name__ == "__main__":
    main()
