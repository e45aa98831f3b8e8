"""Benchmarks and proofs, with their committed results: see README.md."""
