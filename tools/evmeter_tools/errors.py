"""The one exception that a user of the command line sees."""


class UserError(Exception):
    """Something that the user can put right: one line that says what is wrong and what to do.

    `evmeter` prints it as `evmeter: <text>` and ends with exit code 2, without a traceback.
    """
