"""The `mc2sf` command, a module per group of subcommands."""
