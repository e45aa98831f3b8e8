"""The learner: trains the fast part online and writes one release candidate per epoch."""
