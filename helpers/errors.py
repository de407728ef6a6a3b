"""Errors whose message says what to do."""


class EngineUnavailable(RuntimeError):
    """The engine has no build for this platform; the message names a way that works."""
