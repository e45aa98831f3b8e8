"""The error for requests of a user that can't be fulfilled."""


class UserError(ValueError):
    """A request of the user can't be fulfilled; the message says why and what to do."""
