"""Records, topics and the processors that turn a stream of device events into releases and outcomes.

Terms: docs/glossary.md.
"""
