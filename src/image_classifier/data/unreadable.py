"""The error of images that cannot be decoded."""


class UnreadableImage(ValueError):
    """The content is not an image that can be decoded; the text says why."""
