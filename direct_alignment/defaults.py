"""A loss with its settings, published where the config leaves them open."""

from direct_alignment.config import DirectAlignmentConfig
from direct_alignment.loss import Loss
from direct_alignment.losses import losses
from direct_alignment.published import fill


def resolve(config: DirectAlignmentConfig) -> tuple[DirectAlignmentConfig, Loss, dict[str, float]]:
    """The config with no setting of the loss left open, the loss, and its settings.

    Raises:
        UserError: the config sets something that the loss does not have or cannot do.
    """
    resolved = fill(config)
    loss = losses[resolved.loss]
    loss = next((variant for key, variant in loss.variants.items() if getattr(resolved, key)), loss)
    return resolved, loss, {key: getattr(resolved, key) for key in loss.settings}
