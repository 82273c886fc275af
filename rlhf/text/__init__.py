"""Text to tokens and back: chat templates, control tokens, end tokens, completions as they were sampled."""
