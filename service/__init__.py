"""The scoring service: an HTTP API that answers from Ignite, or else from the model in
its own process.
"""
