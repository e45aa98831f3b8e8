"""The usual names of columns and words for events in public logs."""

from __future__ import annotations

import re
from typing import Final

from replay.sources.log_map import Column

# As `plain` returns them, the most telling first.
NAMES: Final[dict[Column, tuple[str, ...]]] = {
    "user": (
        *("user", "userid", "uid", "visitorid", "visitor", "customerid", "customer", "reviewerid", "profileid"),
        *("memberid", "deviceid", "author", "username", "usersession", "sessionid", "session"),
    ),
    "item": (
        *("item", "itemid", "iid", "movieid", "productid", "articleid", "videoid", "newsid", "trackid", "songid"),
        *("artistid", "bookid", "aid", "asin", "parentasin", "isbn", "businessid", "adid", "contentid", "reference"),
        *("sku", "product", "movie", "article", "traid", "trackname"),
    ),
    "timestamp": (
        *("timestamp", "timems", "eventtime", "time", "ts", "datetime", "unixreviewtime", "unixtime", "createdat"),
        *("impressiontime", "date", "day"),
    ),
    "event": ("event", "eventtype", "actiontype", "action", "behaviortype", "behavior", "behaviour", "type"),
    "click": ("isclick", "click", "clicked", "clk"),
    "rating": ("rating", "stars", "overall", "score"),
    "impression": ("impression", "impressionid", "requestid", "slateid"),
}
SHOWN: Final = ("exposure", "impression", "view", "pv", "show", "shown", "seen", "display", "displayed", "expose")
CLICKED: Final = (
    *("click", "clicks", "clicked", "buy", "buys", "purchase", "order", "orders", "cart", "carts", "addtocart"),
    *("addcart", "transaction", "fav", "favorite", "like", "play", "clickoutitem", "bookmark", "save"),
)
USUAL: Final = frozenset(name for names in NAMES.values() for name in names)


def plain(name: str) -> str:
    """Return a name without case, blanks, punctuation and RecBole's type (`user_id:token`)."""
    return re.sub(r"[\W_]", "", name.partition(":")[0].lower())
