"""Everything that knows files: readers of logs, synthetic users, exposure policies, clock and producer."""
