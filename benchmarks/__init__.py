"""Measures this package against its peers; see README.md."""
