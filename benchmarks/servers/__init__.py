"""Servers and workers that benchmarks and tests start: Kafka, PostgreSQL, Faust workers."""
