"""Claims that need no training run: expectations as sums over all outcomes, variances by resampling."""
