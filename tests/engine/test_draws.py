"""The statistics of the masks, and that any part of one can be drawn by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.methods.draws import keep, keep_share, words

CPU = torch.device("cpu")
KEY = 0x9E3779B97F4A7C15


def test_words_by_hand() -> None:
    """Against the definition, in Python's whole numbers."""

    def mix(x: int) -> int:
        for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
            x = (x ^ (x >> shift)) * factor % 2**32
        return x ^ (x >> 14)

    for start in (0, 12345, 2**32 - 2, 7 * 2**32 + 5):
        want = [
            mix((mix((i % 2**32) ^ (KEY % 2**32)) + (KEY >> 32) + 0x9E3779B9 * (i >> 32)) % 2**32)
            for i in range(start, start + 4)
        ]
        assert words(KEY, start, 4, CPU).tolist() == want


def test_words_are_uniform_in_every_bit() -> None:
    n = 1 << 18
    drawn = words(KEY, 0, n, CPU).numpy()
    assert drawn.min() >= 0
    assert drawn.max() < 2**32
    for bit in range(32):
        assert ((drawn >> bit) & 1).mean() == pytest.approx(0.5, abs=5 * 0.5 / n**0.5)
    counts = np.bincount(drawn >> 22, minlength=1024)
    chi_square = ((counts - n / 1024) ** 2 / (n / 1024)).sum()
    assert abs(chi_square - 1023) < 5 * (2 * 1023) ** 0.5


@pytest.mark.parametrize("other", [KEY + 1, KEY ^ (1 << 40), KEY ^ (1 << 63), 0])
def test_other_keys_and_positions_draw_independently(other: int) -> None:
    n = 1 << 16
    first = words(KEY, 0, n, CPU).to(torch.float64)
    for second in (words(other, 0, n, CPU), words(KEY, n, n, CPU), words(KEY, 1, n, CPU), words(KEY, 2**32, n, CPU)):
        correlation = float(torch.corrcoef(torch.stack([first, second.to(torch.float64)]))[0, 1])
        assert abs(correlation) < 5 / n**0.5


def test_parts_agree_with_the_whole() -> None:
    n = 600_000  # more than one chunk
    whole = words(KEY, 0, n, CPU)
    for start, stop in ((0, 1), (17, 1000), (262_143, 262_145), (599_999, n)):
        assert torch.equal(whole[start:stop], words(KEY, start, stop - start, CPU))
    mask = keep_share(KEY, 0.3, n, CPU)
    assert torch.equal(mask, whole.to(torch.float64) < 0.3 * 2**32)
    share = torch.full((1000, 600), 0.3, dtype=torch.float64)
    assert torch.equal(keep(KEY, 0, share).view(-1), mask)
    assert torch.equal(keep(KEY, 60_000, share[:5]).view(-1), mask[60_000:63_000])


@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.05, 0.5, 0.9, 1.0])
def test_share_that_is_kept(probability: float) -> None:
    n = 400_000
    kept = float(keep_share(KEY, probability, n, CPU).to(torch.float64).mean())
    assert kept == pytest.approx(probability, abs=5 * (probability * (1 - probability) / n) ** 0.5 + 1e-12)
