"""Products of float32 matrices on this processor: by BLAS (`linear`) and by oneDNN (a 1 x 1 convolution).

    python bench/products.py

The shapes are those of SAM 2's trunk and memory attention. `masklet.model.layers.product` rests on this.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from clips import machine
from torch import Tensor
from torch.nn import functional

SHAPES = {
    "trunk, widening": (4096, 384, 1536),
    "trunk, narrowing": (4096, 1536, 384),
    "trunk, first stage": (65536, 96, 384),
    "memory attention, scores": (1024, 256, 1024),
    "memory attention, values": (1024, 1024, 65),
    "nano's trunk": (1008, 160, 640),
}
"""Rows, channels in, channels out."""


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply as `product` does."""
    return functional.conv2d(x[None, :, None].permute(0, 3, 1, 2), weight[:, :, None, None], dilation=2)


def best_ms(run: Callable[[], Tensor]) -> float:
    """Return the best of 20, in milliseconds."""
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return 1000 * min(taken)


@torch.inference_mode()
def main() -> None:
    """Measure and print a table."""
    print(f"Milliseconds a product\n{machine()}\n\n{'':<28}{'BLAS':>10}{'oneDNN':>10}{'ratio':>8}")
    for name, (rows, width_in, width_out) in SHAPES.items():
        x, weight = torch.randn(rows, width_in), torch.randn(width_out, width_in)
        blas = best_ms(partial(functional.linear, x, weight))
        onednn = best_ms(partial(convolution, x, weight))
        print(f"{name:<28}{blas:>10.2f}{onednn:>10.2f}{blas / onednn:>8.2f}")


if __name__ == "__main__":
    main()
