"""The paper's experiments, computed offline. Every finished cell (a model fitted with a seed) is stored."""
