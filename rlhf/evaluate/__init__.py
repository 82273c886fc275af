"""What a policy can do: accuracy on held-out problems, pass@k, majority vote, best-of-n."""
