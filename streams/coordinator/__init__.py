"""The coordinator: reviews release candidates, numbers and publishes releases, decides each epoch."""
