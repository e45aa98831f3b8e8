"""Sends an experiment's users through the stream and compares the ranks."""
