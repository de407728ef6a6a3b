"""MXNet: its import on this Python and its distributed key-value store."""
