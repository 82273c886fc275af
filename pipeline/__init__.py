"""The whole loop: policy, preferences, reward model, every optimizer against it, and what that does to the true reward.

Above the families: it runs their commands and measures what they leave. Nothing imports it.
"""
