"""What the lessons share: sessions, processes, data, plots, metrics and checks; never
an engine's own API.
"""
