"""`mc2sf data`: inspect and convert logs before they are replayed."""
