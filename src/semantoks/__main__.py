"""Let ``python -m semantoks`` be the command line."""

from semantoks.cli import main

main()
