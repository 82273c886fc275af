"""DPO and its family: learn from preferences without a reward model and without sampling. RLHF Book, chapter 8."""
