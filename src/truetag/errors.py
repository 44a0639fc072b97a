"""The one exception for a mistake in the input that the person who gave it can mend."""


class InputError(ValueError):
    """A file, an option or a value that is not what it should be.

    The command line prints the message alone and exits with code 2; anything else that is raised is our own defect.
    """
