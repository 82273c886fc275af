"""The setting that claims about small reward models share. Light: `reward_network.py` has the networks."""

FEATURES, PAIRS = 16, 400
SETTING = (
    f"Completions are {FEATURES} random numbers, and their gold reward is a fixed random network of them, mean 0, "
    f"standard deviation 1. Reward models are networks of one hidden layer of 64, trained on {PAIRS} pairs by Adam."
)
