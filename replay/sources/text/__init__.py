"""Text files of any log: decompressed, decoded, and split into lines or CSV records."""
