"""Suggestion of a map for an unknown log from its first rows."""
