"""Users made up by stated rules: their events, and the best score that a ranking can reach on them."""
