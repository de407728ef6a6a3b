"""Ignite: nodes as local processes, a safe client, certificates."""
