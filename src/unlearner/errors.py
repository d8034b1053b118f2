"""The one error that is the user's to mend."""


class UserError(Exception):
    """Input that cannot be used: one line saying what, where, what is allowed and the way out.

    The command line prints it and exits with status 2; nothing has been written by then.
    """
