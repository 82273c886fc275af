"""Answers of a model to conversations: how it is asked, whole answers in batches, and one answer token by token."""
