"""Random numbers that are a function of a key and a position: any part of a tensor can be drawn by itself.

The mixing function is C. Wellons' triple32 (github.com/skeeto/hash-prospector), a bijection of 32-bit words. All
arithmetic is on whole numbers, so every device and every kernel draws the same.
"""

from __future__ import annotations

import math

import torch

CHUNK = 1 << 18
"""Positions drawn at once: they take 8 bytes each, several times over."""
LOW = 0xFFFFFFFF
TWO32 = 4294967296.0


def words(key: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """Return the 32-bit words of the positions start .. start + count - 1, shape (count,), int64.

    word = mix(mix(low half of position ^ low half of key) + high half of key + 0x9e3779b9 * high half of position).
    """
    position = torch.arange(start, start + count, device=device)
    x = _mix((position & LOW) ^ (key & LOW))
    return _mix((x + (key >> 32) + 0x9E3779B9 * (position >> 32)) & LOW)


def upper_word(key: int, position: int) -> int:
    """Return what is added between the two mixings: the same for all positions with one upper half."""
    return ((key >> 32) + 0x9E3779B9 * (position >> 32)) & LOW


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Return triple32(x), in place; x is int64 and holds 32-bit words: products may wrap, their lower half is right."""
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        x.bitwise_xor_(x >> shift).mul_(factor).bitwise_and_(LOW)
    return x.bitwise_xor_(x >> 14)


def keep(key: int, start: int, probability: torch.Tensor) -> torch.Tensor:
    """Return a mask, True with the given probabilities (float64); the first stands at the flat position `start`."""
    drawn = words(key, start, probability.numel(), probability.device).view(probability.shape)
    return drawn.to(torch.float64) < probability * TWO32


def keep_share(key: int, probability: float, count: int, device: torch.device) -> torch.Tensor:
    """Return a mask of shape (count,), each element True with one probability."""
    # As whole numbers: torch would compare with a float in float32.
    below = math.ceil(probability * TWO32)
    mask = torch.empty(count, dtype=torch.bool, device=device)
    for start in range(0, count, CHUNK):
        part = mask[start : start + CHUNK]
        torch.lt(words(key, start, part.numel(), device), below, out=part)
    return mask
