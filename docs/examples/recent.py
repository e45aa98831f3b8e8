"""An exposure policy: three of the last items that anybody touched are shown before each click."""

from collections import deque
from random import Random

SHOWN, KEPT = 3, 50


class Recent:
    """The newest items, which `learn` collects."""

    def __init__(self) -> None:
        self._items: deque[str] = deque(maxlen=KEPT)

    def shown(self, _user: str, _time: int, random: Random) -> list[str]:
        """Return up to SHOWN of the newest items."""
        return random.sample(list(self._items), min(SHOWN, len(self._items)))

    def learn(self, _user: str, item: str, _time: int) -> None:
        """Take in an event."""
        self._items.append(item)
