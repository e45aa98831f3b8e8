"""Offline evaluation: scores every recorded outcome again from the tables alone."""
