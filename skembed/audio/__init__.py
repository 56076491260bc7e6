"""Sounds in, vectors out."""
