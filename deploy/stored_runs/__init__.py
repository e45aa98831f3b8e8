"""The stored runs, in folders and in the database of the environment: list, show, delete and prune them."""
