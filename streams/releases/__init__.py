"""Releases: their parts, candidates, registry, publication reader and item statistics."""
