"""Building blocks of the nets: GRU with fixed tiles, local attention, multilayer perceptron."""
