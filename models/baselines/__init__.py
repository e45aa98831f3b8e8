"""Comparison models of the experiments; none of them serves the stream."""
