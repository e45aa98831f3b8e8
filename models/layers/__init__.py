"""Layers shared by the product's nets and the baselines: GRU, minGRU, local attention, HSTU block, MLP."""
