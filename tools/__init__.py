"""What runs the workshop: `python -m tools.NAME` from the project's folder; the
Makefile names them all.
"""
