"""How good a model is, and how far to believe that."""
