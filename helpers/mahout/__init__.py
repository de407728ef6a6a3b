"""Mahout's Samsara: a JVM beside the notebook and its Scala cells."""
