"""The table of kernels: which method has one. A method without, or a kernel that declines, takes the reference."""

from __future__ import annotations

from engine.kernels.arcee_fusion import arcee_fusion
from engine.kernels.banded import banded
from engine.kernels.kernel import Kernel
from engine.kernels.nearswap import nearswap
from engine.kernels.ram import ram, ramplus_tl
from engine.kernels.ranked import ranked
from engine.kernels.sce import sce
from engine.kernels.sparsified import Select, drawn, summing
from engine.kernels.weighted_sum import weighted_sum
from engine.methods import METHODS

SELECTIONS: dict[str, Select] = {
    "ties": banded,
    "breadcrumbs": banded,
    "breadcrumbs_ties": banded,
    "dare_linear": drawn,
    "dare_ties": drawn,
    "della": ranked("della"),
    "della_linear": ranked("della_linear"),
}

KERNELS: dict[str, Kernel] = {
    **{name: weighted_sum(method.combination) for name, method in METHODS.items() if method.combination},
    **{name: summing(select, consensus=METHODS[name].consensus) for name, select in SELECTIONS.items()},
    "sce": sce,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
}
