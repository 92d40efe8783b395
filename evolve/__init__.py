"""The search: command line, loop, optimizers, workers, storage, selection and reports."""
