"""Readers of text files: they are decompressed, decoded, and split into lines or CSV records."""
