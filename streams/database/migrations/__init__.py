"""Changes of the schema, one revision a file; `streams.database.engine.connect` brings a database to the newest."""
