"""Predictions served: the scoring service as a process, load on it, the delay at an
airport.
"""
