"""The nets of MC²-SF in pure torch: no Kafka, no SQL, no metrics."""
