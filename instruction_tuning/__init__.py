"""Instruction tuning (SFT): the likelihood of demonstrations. It also makes the embedded model from nothing."""

from instruction_tuning.api import run

__all__ = ["run"]
