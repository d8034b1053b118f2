"""`python -m unlearner` is the command line."""

from unlearner.cli import main

main()
