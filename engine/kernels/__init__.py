"""Fused loops over stored words: the merge methods' fast path on CPUs. The table stands in `engine.kernels.table`."""
