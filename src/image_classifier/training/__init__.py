"""One training: its batches, model, loop, checkpoints, and how it goes on after a kill."""
