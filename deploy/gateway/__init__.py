"""The gateway: events of live devices come in over HTTP, rankings go out.

`app` has the routes, `tokens` who may use them, `bodies` what they take, `ingest` brings events to Kafka,
`epoch_ticker` ends epochs where no replayer does, `serving` opens broker and database. Rankings are computed from the
tables, as `mc2sf recommend` does: they know what the recorder had written at the end of the last epoch.
"""
