"""Instruction tuning (SFT): the likelihood of demonstrations. It also makes the embedded model from nothing."""
