"""One module for each peer, run in the peer's own virtual environment."""
