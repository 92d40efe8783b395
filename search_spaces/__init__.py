"""Which recipes can be reached: genes in the unit cube <-> a recipe that can also be merged by hand.

`SPACES` says how a parameter varies over depth; genes come from the bounds that the merge methods declare.
"""

from search_spaces.depth import Depth
from search_spaces.layouts import blocks, per_layer, smooth

SPACES: dict[str, Depth] = {
    "blocks": blocks.DEPTH,
    "per_layer": per_layer.DEPTH,
    "smooth": smooth.DEPTH,
}
