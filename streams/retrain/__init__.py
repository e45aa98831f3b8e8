"""The retrain job: trains encoder and slow part from the tables and writes a release candidate."""
