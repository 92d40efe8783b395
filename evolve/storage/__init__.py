"""What a run remembers: the ledger in a database or journal, its lease, and the items of every candidate."""
