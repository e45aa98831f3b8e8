"""Values of a log, read one at a time or as Arrow columns: times, names, kinds of events."""
