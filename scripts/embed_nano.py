"""Put a trained nano into the package: half precision, and a header that says what it is.

    python scripts/embed_nano.py runs/nano/model.safetensors --edition 2

The next edition is measured first (`python bench/nano.py --model FILE`) and is put in only if it is better.
"""

import argparse
import hashlib
from pathlib import Path

from convert_nano import METADATA, serialised

from masklet import load_network

OUT = Path(__file__).parents[1] / "src/masklet/embedded/nano.safetensors"


def main() -> None:
    """Write, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--edition", type=int, required=True)
    arguments = parser.parse_args()
    network = load_network(arguments.model, device="cpu", dtype="float32")
    weights = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    source = f"{METADATA['source']}; trained further with masklet train (docs/nano.md)"
    OUT.write_bytes(serialised(weights, METADATA | {"edition": str(arguments.edition), "source": source}))
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.1f} MB, sha256 {hashlib.sha256(OUT.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
