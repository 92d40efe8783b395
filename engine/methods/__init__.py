"""The table of merge methods: one file and one row each."""

from engine.methods.arcee_fusion import ARCEE_FUSION
from engine.methods.breadcrumbs import BREADCRUMBS
from engine.methods.breadcrumbs_ties import BREADCRUMBS_TIES
from engine.methods.dare_linear import DARE_LINEAR
from engine.methods.dare_ties import DARE_TIES
from engine.methods.della import DELLA
from engine.methods.della_linear import DELLA_LINEAR
from engine.methods.karcher import KARCHER
from engine.methods.linear import LINEAR
from engine.methods.method import Method
from engine.methods.model_stock import MODEL_STOCK
from engine.methods.multislerp import MULTISLERP
from engine.methods.nearswap import NEARSWAP
from engine.methods.nuslerp import NUSLERP
from engine.methods.passthrough import PASSTHROUGH
from engine.methods.ram import RAM
from engine.methods.ramplus_tl import RAMPLUS_TL
from engine.methods.sce import SCE
from engine.methods.slerp import SLERP
from engine.methods.task_arithmetic import TASK_ARITHMETIC
from engine.methods.ties import TIES

METHODS: dict[str, Method] = {
    "linear": LINEAR,
    "slerp": SLERP,
    "nuslerp": NUSLERP,
    "multislerp": MULTISLERP,
    "karcher": KARCHER,
    "task_arithmetic": TASK_ARITHMETIC,
    "ties": TIES,
    "dare_linear": DARE_LINEAR,
    "dare_ties": DARE_TIES,
    "breadcrumbs": BREADCRUMBS,
    "breadcrumbs_ties": BREADCRUMBS_TIES,
    "della": DELLA,
    "della_linear": DELLA_LINEAR,
    "sce": SCE,
    "ram": RAM,
    "ramplus_tl": RAMPLUS_TL,
    "model_stock": MODEL_STOCK,
    "nearswap": NEARSWAP,
    "arcee_fusion": ARCEE_FUSION,
    "passthrough": PASSTHROUGH,
}
