"""`python -m masklet` is the command `masklet`."""

from masklet.cli import main

main()
