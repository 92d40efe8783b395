"""The end of a run: finalists, the simplified winner, and the verdict on documents that nobody has seen."""
