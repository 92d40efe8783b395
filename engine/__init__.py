"""Weights in, weights out: recipes, lazy checkpoints, merge methods, plans and their execution."""
