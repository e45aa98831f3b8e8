"""Runs an experiment cell by cell; tuning and significance tests."""
