"""Claims of what training makes a model forget."""
