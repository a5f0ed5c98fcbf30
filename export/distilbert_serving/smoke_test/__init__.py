"""Asks a running server what must hold for every export."""
