"""The gateway: an HTTP server that accepts events of live devices and returns rankings.

`api` defines requests and answers, `ingest` sends records to Kafka, `lists` converts events to records, `rankings`
requests rankings of device workers, `explanation` recomputes a ranking, `tables` queries the database, `epoch_ticker`
ends epochs if no replayer does, `serving` opens broker and database. `client` is for users.
"""
