"""`python -m evolve`, where the command is not on the path."""

from evolve.cli import main

main()
