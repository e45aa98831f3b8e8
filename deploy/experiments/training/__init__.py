"""Models, hyperparameters and trainers of the experiments."""
