"""reasoning-gym, imported without the syntax warnings that one of its dependencies gives when it is first compiled."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)
    from reasoning_gym import create_dataset
    from reasoning_gym.factory import DATASETS, ProceduralDataset, register_dataset

__all__ = ["DATASETS", "ProceduralDataset", "create_dataset", "register_dataset"]
