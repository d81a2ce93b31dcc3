"""What a person runs besides the stages: one module for each command."""
