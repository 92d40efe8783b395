"""The table of merge methods: one file and one row each."""

from engine.methods.dare_linear import DARE_LINEAR
from engine.methods.dare_ties import DARE_TIES
from engine.methods.linear import LINEAR
from engine.methods.method import Method
from engine.methods.passthrough import PASSTHROUGH
from engine.methods.slerp import SLERP
from engine.methods.task_arithmetic import TASK_ARITHMETIC
from engine.methods.ties import TIES

METHODS: dict[str, Method] = {
    "linear": LINEAR,
    "slerp": SLERP,
    "task_arithmetic": TASK_ARITHMETIC,
    "ties": TIES,
    "dare_linear": DARE_LINEAR,
    "dare_ties": DARE_TIES,
    "passthrough": PASSTHROUGH,
}
