"""DPO and its family: learn from preferences without a reward model and without sampling. RLHF Book, chapter 8."""

from direct_alignment.api import run

__all__ = ["run"]
