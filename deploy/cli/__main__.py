"""Runs the `mc2sf` command as `python -m deploy.cli`."""

from deploy.cli.main import main

main()
