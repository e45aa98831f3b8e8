"""Kafka clients, topic administration, partitioning, received messages and dead letters."""
