"""Changes of the schema, one revision a file; `streams.store.connect` brings a database to the newest."""
