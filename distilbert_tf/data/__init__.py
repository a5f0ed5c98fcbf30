"""Tasks, and the examples in their files."""
