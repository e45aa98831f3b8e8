"""Rescoring: offline evaluation that ranks every recorded click again from the tables alone."""
