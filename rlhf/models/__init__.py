"""Models: loading, precision, attention, LoRA, heads, and what an architecture can do."""
