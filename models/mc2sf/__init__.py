"""The product's nets (DIN, F2S, fast alone, S2F), their scorer and their checkpoint format.

Terms: docs/glossary.md.
"""
