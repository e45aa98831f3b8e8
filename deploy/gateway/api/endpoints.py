"""The requests that a gateway takes: path, scope, body and answer of each. Routes and OpenAPI document follow this."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from deploy.gateway.api import bodies, metarank
from deploy.gateway.api.tokens import Scope
from deploy.gateway.explanation import Explanation
from streams.prequential.served import By

_EVENT = bodies.Event("film 9", "click", 1_700_000_000_000, ranking="6L3Jf0dVbTqY1x2a")
_SHOWN = bodies.Event("film 3", "exposure", 1_700_000_000_000, impression=5)


@dataclass(frozen=True, eq=False)
class Endpoint:
    """A request. The first line of `doc` is its summary."""

    method: str
    path: str
    scope: Scope | None  # that a token needs; None: no token
    doc: str
    answer: type[msgspec.Struct]
    body: type[msgspec.Struct] | None = None
    example: msgspec.Struct | None = None  # of the body
    status: int = 200
    query: dict[str, object] = field(default_factory=dict)


EVENTS = Endpoint(
    "POST",
    "/v1/users/{user}/events",
    "ingest",
    "Accept events of a user, once Kafka has them.\n\nEvents with sequence numbers or an Idempotency-Key may be sent "
    "again: they are applied once.",
    bodies.EventsAnswer,
    bodies.Events,
    bodies.Events([_EVENT, _SHOWN]),
    202,
)
BEST = Endpoint(
    "GET", "/v1/users/{user}/rankings", "rank", "Rank items of the catalogue.", bodies.RankingAnswer,
    query={"k": bodies.TopK, "variant": By},
)  # fmt: skip
RANK = Endpoint(
    "POST",
    "/v1/users/{user}/rankings",
    "rank",
    "Rank candidates.",
    bodies.RankingAnswer,
    bodies.Candidates,
    bodies.Candidates(["film 3", "film 9"], 10),
)
EXPLAIN = Endpoint("GET", "/v1/rankings/{ranking}", "rank", "Explain one of the last rankings.", Explanation)
USER = Endpoint(
    "GET", "/v1/users/{user}", "admin", "Show the state of a user as it was recorded last.", bodies.UserAnswer
)
FORGET = Endpoint(
    "DELETE",
    "/v1/users/{user}",
    "admin",
    "Forget a user.\n\nDevice and cloud delete the user's state at once, the tables have no row of the user from the "
    "end of the epoch on; records on Kafka expire.",
    bodies.ForgetAnswer,
    status=202,
)
RELEASES = Endpoint("GET", "/v1/releases", "rank", "List the releases.", bodies.ReleasesAnswer)
ITEM = Endpoint("GET", "/v1/items/{item}", "rank", "Show an item.", bodies.ItemAnswer)
FEEDBACK = Endpoint(
    "POST",
    "/feedback",
    "ingest",
    "Accept events in Metarank's format, one or a list.\n\nThe items of a ranking are exposures; an interaction of "
    "type click is a click; other events are counted and left out.",
    metarank.FeedbackAnswer,
    metarank.Feedback,
    metarank.Feedback("ranking", "id1", "1661431894711", user="alice", items=[metarank.Item("72998")]),
)
METARANK = Endpoint(
    "POST",
    "/rank/{model}",
    "rank",
    "Rank items in Metarank's format.\n\nThe name of the model is not used.",
    metarank.RankAnswer,
    metarank.Rank,
    metarank.Rank("id1", "1661431894711", [metarank.Item("72998"), metarank.Item("589")], user="alice"),
)
HEALTH = Endpoint("GET", "/healthz", None, "Return ok if the gateway runs.", bodies.HealthAnswer)
READY = Endpoint(
    "GET", "/readyz", None, "Return ok if broker and database answer and the run goes on.", bodies.HealthAnswer
)

ENDPOINTS = (EVENTS, BEST, RANK, EXPLAIN, USER, FORGET, RELEASES, ITEM, FEEDBACK, METARANK, HEALTH, READY)
