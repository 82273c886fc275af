"""How PyTorch is made to work well on a CPU."""
