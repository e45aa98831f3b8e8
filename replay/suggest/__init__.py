"""A look at the first rows of an unknown log, and a map proposed for it."""
