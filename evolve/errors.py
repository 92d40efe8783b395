"""Everything that a user can put right, drawn as one tree. The command line prints it and exits with 2.

    EvolveError
    ├── ConfigError      search.yaml: every problem in it, one a line
    ├── RunError         a run's folder, its ledger, another driver at work
    └── ModelError       a model cannot be scored: no causal language model, no tokenizer, not enough memory
    engine.errors.EngineError    recipes, checkpoints, merging, writing
    tasks.errors.TaskError       tasks, documents, metrics

Messages read `where: what, with the value; what to do`. Anything else that is raised is a defect of ours.
"""

from __future__ import annotations


class EvolveError(Exception):
    """Root of the errors that this package raises for users."""


class ConfigError(EvolveError):
    """search.yaml is not valid; the message lists every problem."""


class RunError(EvolveError):
    """The run's folder or ledger cannot be used as asked."""


class ModelError(EvolveError):
    """A model cannot be loaded or scored here."""
