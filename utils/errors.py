"""The errors a user can act on: one root, one exit code a branch.

The command lines print one line of such an error (what, where, how to mend it) and no traceback; see `utils.cli`.
"""


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what to do."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration key, value or combination that cannot work."""


class DataError(UserError):
    """A release, index, table, archive or image that cannot be used."""

    exit_code = 3


class CheckpointError(UserError):
    """A model folder or checkpoint that cannot be loaded or written."""

    exit_code = 4


class NonFiniteError(UserError):
    """Training produced NaN or infinity more often than the budget allows."""

    exit_code = 5


class OutOfMemoryError(UserError):
    """Not even the smallest micro-batch fits the memory."""

    exit_code = 7


class HubError(UserError):
    """The Hugging Face Hub did not take or give something, or must not get it."""

    exit_code = 8


class PeerError(UserError):
    """Another process of this run failed, and its own message says why."""

    exit_code = 1
