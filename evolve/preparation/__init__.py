"""From a configuration to a run: everything that is made and checked before the first trial."""
