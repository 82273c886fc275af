"""Claims of reward models."""
