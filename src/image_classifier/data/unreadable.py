"""The error of images that cannot be decoded, and how large an image may be."""

# An image with this number of pixels or more is refused: a file of some kilobytes can claim any
# number, and this many take 360 MB as RGBA. It is the limit at which Pillow warns, and more than a
# camera with 85 megapixels takes.
MAXIMUM_PIXELS = 89_478_485


class UnreadableImage(ValueError):
    """The content is not an image that can be decoded; the text says why."""
