"""Kafka: a broker as a local process, flights as events, latency."""
