"""Inputs of the nets: views of clicks, the interaction log, window and group rules, catalogue, item features."""
