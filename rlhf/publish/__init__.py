"""Finished runs on the Hugging Face Hub."""
