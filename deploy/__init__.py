"""What puts the parts together and runs them: the `mc2sf` command, the local stack, dashboards."""
