"""Verification: an independent second implementation that recomputes a run from its log and compares everything.

It repeats rules of the product on purpose: event kinds, windows, impression groups, candidates, item statistics, ranks.
It imports none of the modules that implement them, and is written for reading, not for speed: an error in one of the
two implementations shows as a difference, while a shared function would hide it. Do not merge the two. Shared are the
vocabulary (records, tables, states) and the tile scorer, so that equal means equal to the last bit; its scores are
checked on a sample by equations without tiles. Terms: docs/glossary.md.
"""
