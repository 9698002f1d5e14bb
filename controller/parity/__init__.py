"""What `make parity` and `make drift` compare, and how they report it."""
