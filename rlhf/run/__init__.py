"""A run: its session, its directory with logs and checkpoints, the console, resuming, and sweeps of many runs."""
