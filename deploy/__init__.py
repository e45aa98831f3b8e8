"""The `mc2sf` command, local runs, the report, the experiments, and files for deployment and monitoring."""
