"""Where things are: sine codes for maps and times, Fourier codes for clicks, rotary codes for attention.

SAM 2 paper section 4 and appendix C; RoPE from Heo et al. 2024 (arXiv 2403.13298).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

TEMPERATURE = 10000.0


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept may be used in training later, which takes no tensor made for inference
def sine_map(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return the sine code of every cell, `[channels, height, width]`, first half y, second half x.

    Cells count from 1 and are divided by the last one, so the code spans 2 pi whatever the map's size.
    """
    half = channels // 2
    rates = TEMPERATURE ** (2 * (torch.arange(half, device=device) // 2) / half)

    def axis(cells: int) -> Tensor:
        place = torch.arange(1, cells + 1, dtype=torch.float32, device=device) / (cells + 1e-6) * (2 * math.pi)
        angles = place[:, None] / rates
        return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=2).flatten(1).T  # [half, cells]

    y = axis(height)[:, :, None].expand(half, height, width)
    x = axis(width)[:, None, :].expand(half, height, width)
    return torch.cat((y, x))


def sine_times(times: Tensor, channels: int) -> Tensor:
    """Return the sine code of each time, `[n] -> [n, channels]`, sines first."""
    half = channels // 2
    rates = TEMPERATURE ** (2 * (torch.arange(half, dtype=torch.float32, device=times.device) // 2) / half)
    angles = times[:, None] / rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def fourier(places: Tensor, frequencies: Tensor) -> Tensor:
    """Return the random Fourier code of places in 0..1, `[..., 2] (x, y) -> [..., c]`; `frequencies` is `[2, c/2]`."""
    angles = 2 * math.pi * ((2 * places - 1) @ frequencies)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def rotary_map(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return the axial rotary code of every cell, `[height * width, channels / 2]` complex, x rates first."""
    rates = 1.0 / (TEMPERATURE ** (torch.arange(0, channels, 4, dtype=torch.float32, device=device) / channels))
    cell = torch.arange(height * width, device=device)
    angles = torch.cat((torch.outer(cell % width, rates), torch.outer(cell // width, rates)), dim=1)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, codes: Tensor) -> Tensor:
    """Turn neighbouring channel pairs of `x` `[..., n, c]` by `codes` `[n, c/2]`."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * codes).flatten(-2).type_as(x)
