"""`mc2sf data`: logs, before they are replayed."""
