"""The learner: trains the fast part online and proposes a release when it is better."""
