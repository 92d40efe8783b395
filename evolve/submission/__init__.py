"""Runs on a cluster that is reached from outside: submit, follow, stop and fetch."""
