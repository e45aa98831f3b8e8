"""A whole run on one machine: embedded broker, supervised child processes, progress display."""
