"""Prequential evaluation: metrics over ranked clicks in stream order, and the online baselines.

Terms: docs/glossary.md.
"""
