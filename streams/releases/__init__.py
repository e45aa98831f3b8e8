"""Releases: their parts, candidates, registry, publication reader and item statistics.

Terms: docs/glossary.md.
"""
