"""The settings: their types and ranges, how they are composed, and what is said of a wrong one."""
