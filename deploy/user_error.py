"""The error for requests of a user that can't be met."""


class UserError(ValueError):
    """A request of the user can't be met; the message says why and what would help."""
