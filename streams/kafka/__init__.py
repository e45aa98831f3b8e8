"""Kafka clients, topic administration, partitioning, consumed records and dead letters."""
