"""``python -m workbench`` is the command line."""

from .cli import main

main()
