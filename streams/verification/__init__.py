"""Verification: an independent second implementation that recomputes a run from its log and compares everything.

It repeats rules of the product on purpose: windows, impression groups, candidates, item statistics, ranks and metrics.
It imports none of the modules that implement them, and is written for reading, not for speed: an error in one of the
two implementations shows as a difference, while a shared function would hide it. Do not merge the two. Shared are the
vocabulary (records, tables, states) and the tile scorer, so that equal means equal to the last bit; its scores are
checked on a sample by equations without tiles.

This is a second, independent implementation on purpose: it states the event kinds, the impression-group rule and the
window rule again instead of importing them, so that an error in one of the two is found. Terms: docs/glossary.md.
"""
