"""Candidate lists and ranking metrics."""
