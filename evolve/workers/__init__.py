"""Who merges and scores: the resident model, in this process or on the workers of a Ray cluster."""
