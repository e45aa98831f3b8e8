"""The device processor: every user's short histories, exposure windows and ranking requests (Faust)."""


def __getattr__(name: str) -> object:
    """Return `app` for `faust -A streams.device`, built from the environment's settings on first access."""
    if name == "app":
        from streams.device.worker import app  # noqa: PLC0415 - building the app needs the environment's settings

        return app()
    raise AttributeError(name)
