"""Preparation of a replay: total order of the rows, simulated exposures, epochs, late arrivals."""
