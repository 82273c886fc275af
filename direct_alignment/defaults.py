"""A loss's published settings, filled in where the config leaves them open; contradictions are refused."""

from direct_alignment.config import LOSS_KEYS, DirectAlignmentConfig
from direct_alignment.loss import Loss
from direct_alignment.losses import losses
from rlhf.errors import UserError


def resolve(config: DirectAlignmentConfig) -> tuple[DirectAlignmentConfig, Loss, dict[str, float]]:
    """The config with no setting of the loss left open, the loss, and its settings.

    Raises:
        UserError: the config sets something that the loss does not have or cannot do.
    """
    loss = losses[config.loss]
    accepted = {"reference", *loss.settings, *loss.variants}
    for key in LOSS_KEYS:
        if getattr(config, key) is not None and key not in accepted:
            readers = [name for name, it in losses.items() if key in it.settings or key in it.variants]
            raise UserError(f"{key}: {config.loss} does not have it", hint=f"It belongs to {', '.join(readers)}.")
    loss = next((variant for key, variant in loss.variants.items() if getattr(config, key)), loss)
    if config.reference == "none" and "reference" in loss.needs:
        free = [name for name, it in losses.items() if "reference" not in it.needs]
        raise UserError(f"reference: {config.loss} needs one", hint=f"Without a reference: {', '.join(free)}.")
    if config.sync_reference_every and "reference" not in loss.needs:
        raise UserError(f"sync_reference_every: {config.loss} compares with no reference")
    filled = {key: value for key, value in loss.settings.items() if getattr(config, key) is None}
    resolved = config.model_copy(update={**filled, "reference": config.reference or "initial"})
    return resolved, loss, {key: getattr(resolved, key) for key in loss.settings}
