"""The files of a project: where they are, and how they are written, read and compared."""
