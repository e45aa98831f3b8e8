"""Baselines of the offline experiments; none of them serves the stream."""
