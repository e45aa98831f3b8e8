"""The SQL schema, its migrations, and bulk reads and writes on SQLite and PostgreSQL."""
