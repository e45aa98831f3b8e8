"""The device worker against a naive Faust agent, Quix Streams and the bare arithmetic."""
