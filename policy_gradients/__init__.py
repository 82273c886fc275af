"""Policy gradients: sample completions, reward them, make the better ones more likely."""
