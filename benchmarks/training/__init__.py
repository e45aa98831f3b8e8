"""Training: its cost, its precision, retrains on increments, and river as a baseline."""
