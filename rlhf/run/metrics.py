"""The metrics that every loop logs alike."""

# A loop describes its own metrics, and may describe one of these more closely.
METRICS = {
    "optim/steps": {"description": "Optimizer steps that the model took in this step", "unit": ""},
    "optim/lr": {"description": "Learning rate of the last optimizer step", "unit": ""},
    "optim/grad_norm": {"description": "Norm of the whole gradient before clipping, last optimizer step", "unit": ""},
    "sampler/tokens": {
        "description": "Tokens sampled for this step, those of completions that are not learned from among them",
        "unit": "tokens",
    },
    "speed/tokens_per_s": {
        "description": "Completion tokens trained on a second, all processes",
        "unit": "tokens/s",
    },
    "time/update_s": {"description": "Forward, backward and optimizer", "unit": "s"},
    "memory/peak_gb": {"description": "Peak memory so far", "unit": "GB"},
}
