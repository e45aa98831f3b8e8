"""The results of a run: summary.json, the terminal tables and report.html."""
