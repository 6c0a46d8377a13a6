"""What a run must not do while Gaussians are held near their anchors."""

from __future__ import annotations


def check_background(background: object) -> None:
    """Refuse a background that changes from step to step: there would be nothing to converge to.

    Args:
        background: ``RasterSettings.background``, or nerfstudio's ``background_color`` ("random", "black", "white").

    Raises:
        ValueError: If it is random.
    """
    if background == "random":
        raise ValueError(
            "The background is random, so that the refined Gaussians would have no fixed optimum to differentiate "
            "through; choose a fixed colour, such as black."
        )


def check_fixed_gaussians(densifies: bool) -> None:
    """Refuse a run that adds or removes Gaussians.

    Args:
        densifies: Whether the run clones, splits, prunes or resets Gaussians.

    Raises:
        ValueError: If it does.
    """
    if densifies:
        raise ValueError(
            "Densification is switched on, but new Gaussians have no anchor and no precision; switch it off for "
            "diff3r, or densify with splatfacto or another method instead."
        )
