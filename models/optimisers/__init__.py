"""Optimisers: Adam for dense weights and for rows of the item table, and Newton's method for a few weights."""
