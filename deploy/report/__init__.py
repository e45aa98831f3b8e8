"""What a run leaves behind: summary.json, the terminal tables and report.html."""
