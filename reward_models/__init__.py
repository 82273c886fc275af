"""Reward models: preference, outcome and process; trained, tested against shortcuts, usable. RLHF Book, chapter 5."""
