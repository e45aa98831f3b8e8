"""The certificate of a run: its log folded once more by plainer code, and compared with all that was recorded.

Terms: docs/glossary.md.
"""
