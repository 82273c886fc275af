"""Claims of direct alignment."""
