"""Let ``python -m semantoks`` be the command line."""

from semantoks.cli.application import main

main()
