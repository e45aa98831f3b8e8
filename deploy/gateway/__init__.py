"""The gateway: events of live devices come in over HTTP, rankings go out.

`api` has requests and answers, `ingest` brings records to Kafka, `lists` makes records of events, `rankings` asks
device workers and reads their answers, `explanation` computes a ranking again, `tables` reads what is recorded,
`epoch_ticker` ends epochs where no replayer does, `serving` opens broker and database. `client` is for users.
"""
