"""Spark: sessions, submitted jobs, streams, and the cluster managers that run them."""
