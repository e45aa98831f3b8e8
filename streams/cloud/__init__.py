"""The cloud processor: delayed click histories and the priors that answer ranking requests (Faust)."""


def __getattr__(name: str) -> object:
    """Return `app` for `faust -A streams.cloud`, built from the environment's settings on first access."""
    if name == "app":
        from streams.cloud.worker import app  # noqa: PLC0415 - building the app needs the environment's settings

        return app()
    raise AttributeError(name)
