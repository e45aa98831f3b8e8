"""The runs that are kept, in folders and in the database of the environment: list, show, delete and prune them."""
