"""`python -m unlearner` is the command line."""

from unlearner.cli.app import main

main()
