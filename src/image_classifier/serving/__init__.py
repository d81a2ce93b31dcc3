"""The stored model, and what stands between it and the network."""
