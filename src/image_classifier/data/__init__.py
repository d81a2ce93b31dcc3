"""Image files: where they come from, what they are, how they are dealt, and as arrays."""
