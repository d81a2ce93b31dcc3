"""The one exception for what a user can mend."""


class InputError(Exception):
    """Bad input, configuration or surroundings; its text says what to do: no traceback is shown."""
