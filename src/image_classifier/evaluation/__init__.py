"""How good a trained model is, and how far to believe that."""
