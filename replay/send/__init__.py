"""Sending of a prepared replay: virtual clock, batching, epoch barrier, producer, injected faults."""
