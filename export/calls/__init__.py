"""What the clients are made of: requests, channels, answers."""
