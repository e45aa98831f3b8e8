"""Protocol, data sets, candidate lists and known histories of the experiments."""
