"""Readers of logs in the field's formats, and the generator of synthetic users."""
