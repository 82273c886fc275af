"""Claims of policy-gradient training."""
