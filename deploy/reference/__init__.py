"""Generator of docs/reference: pages about topics, records, tables, metrics, settings, commands and summary.json."""
