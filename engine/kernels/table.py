"""The table of kernels: which method has one. A method without, or a kernel that declines, takes the reference."""

from __future__ import annotations

from engine.kernels.arcee_fusion import arcee_fusion
from engine.kernels.banded import banded
from engine.kernels.kernel import Kernel
from engine.kernels.nearswap import nearswap
from engine.kernels.ram import ram, ramplus_tl
from engine.kernels.ranked import ranked
from engine.kernels.sce import sce
from engine.kernels.sparsified import drawn
from engine.kernels.weighted_sum import weighted_sum
from engine.methods import METHODS

KERNELS: dict[str, Kernel] = {
    **{name: weighted_sum(method.combination) for name, method in METHODS.items() if method.combination},
    "ties": banded(consensus=True),
    "breadcrumbs": banded(consensus=False),
    "breadcrumbs_ties": banded(consensus=True),
    "dare_linear": drawn(consensus=False),
    "dare_ties": drawn(consensus=True),
    "della": ranked("della", consensus=True),
    "della_linear": ranked("della_linear", consensus=False),
    "sce": sce,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
}
