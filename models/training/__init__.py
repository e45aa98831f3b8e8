"""Training: `retrain` fits the stream's slow part, `online` makes the learner's steps, `fit` serves the experiments."""
