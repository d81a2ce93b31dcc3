"""How many more test images would decide what the present ones leave open."""

import math


def images_needed(value: float, low: float, high: float, limit: float, images: int) -> int | None:
    """Return how many more images would show that a value is above a limit, at 80% power.

    The width of an interval falls with the root of the number of images.

    Args:
        value: The value that was measured; it is assumed to stay.
        low: Lower end of its interval.
        high: Upper end.
        limit: What the interval must lie above.
        images: The number of images that the value was measured on.

    Returns:
        The number of additional images; None if more cannot help, because the value is not above
        the limit.

    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988: 1.96 and 0.84 are
    the quantiles of the normal distribution for the interval and for the power.
    """
    if not value > limit:
        return None
    factor = ((value - low) / (value - limit) * (1.96 + 0.84) / 1.96) ** 2
    return max(0, math.ceil(images * (factor - 1)))
