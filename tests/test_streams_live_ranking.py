"""Rankings for gateways on device and cloud: who answers when, with what, and that nothing is learnt from a request."""

from __future__ import annotations

from typing import Any

import numpy as np

from deploy.gateway.lists import ranking_impression
from models.evaluation.metrics import rank
from streams.records import DeviceBatch, EpochBegin, Forget, GatewayRequest, Ranking, SlowPriors
from streams.state.numbering import KEPT_KEYS
from streams.topics import CLOUD_DOWNLINK, DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES, RANKINGS
from tests.test_streams_device_batch import FREE, Worker, at, batch

UNRANKED = FREE.model_copy(update={"evaluate": 0.0, "exposures": "rated"})
ASKED = ["3", "1", "never seen", "7"]


class WorkersHarness:
    """A device and a cloud worker, and the offsets of what they are sent."""

    def __init__(self, settings: Any = UNRANKED) -> None:
        self.device, self.cloud, self.offset = Worker(settings, wall=1_000), Worker(settings, cloud=True), 0
        self.answered = 0

    def send(self, *records: Any) -> None:
        """Let the device take records in one batch."""
        messages = [at(DEVICE_EVENTS, record, offset=self.offset + i) for i, record in enumerate(records)]
        self.offset += len(records)
        self.device.work(*messages)

    def answer(self) -> None:
        """Let the cloud answer what the device has sent up since, and the device take it."""
        sent = self.device.sent.get(DEVICE_UPLINK.name, [])
        self.cloud.work(*(at(DEVICE_UPLINK, record) for record in sent[self.answered :]))
        self.answered, before = len(sent), len(self.cloud.sent.get(CLOUD_DOWNLINK.name, []))
        down = self.cloud.sent.pop(CLOUD_DOWNLINK.name, [])
        assert before == len(down)
        self.device.work(*(at(CLOUD_DOWNLINK, record) for record in down))

    def ranked(self, *candidates: str, k: int = 4, name: str = "r") -> tuple[Ranking, Ranking]:
        """Return the fast part's answer and the whole one."""
        self.send(GatewayRequest(name, "u", list(candidates), k, 2_000, 1_000))
        self.answer()
        first, whole = self.device.sent[RANKINGS.name][-2:]
        return first, whole


def test_the_fast_part_answers_at_once_and_the_whole_answer_follows() -> None:
    harness = WorkersHarness()
    harness.send(batch(*range(1, 6), kind=0), batch(2, 3, seq=5))
    before = dict(harness.device.rows)
    first, whole = harness.ranked(*ASKED)
    assert {k: v for k, v in harness.device.rows.items() if not k.startswith(b"\0")} == {
        k: v for k, v in before.items() if not k.startswith(b"\0")
    }, "nothing is learnt from a request"
    assert (first.degraded, first.variant, whole.degraded, whole.variant) == (True, "fast", False, "mc2sf")
    assert np.array_equal(first.scores["fast"].array(), whole.scores["fast"].array())
    assert set(whole.scores) == {"din", "f2s", "fast", "mc2sf", "popularity"}
    assert (whole.names, whole.window, whole.seq, whole.not_uploaded) == (ASKED, 1, 7, 2)
    assert len(whole.r2) == 4 * FREE.dim
    assert whole.clicks.array().tolist() == [2, 3]
    harness.answer()
    assert len(harness.device.sent[RANKINGS.name]) == 2
    harness.send(GatewayRequest("s", "u", ASKED, 4, 2_000, 1_000, "popularity"))
    harness.answer()
    assert harness.device.sent[RANKINGS.name][-1].variant == "popularity", "the variant that is served"


def test_a_click_changes_the_next_ranking_at_once() -> None:
    harness = WorkersHarness()
    harness.send(batch(2, 3))
    _, before = harness.ranked(*ASKED)
    harness.send(batch(9, seq=2))
    _, after = harness.ranked(*ASKED, name="s")
    assert before.scores != after.scores
    assert after.clicks.array().tolist() == [2, 3, 9]


def test_candidates_come_from_the_catalogue_without_the_last_clicks() -> None:
    harness = WorkersHarness()
    harness.send(batch(2, 3))
    _, whole = harness.ranked(k=5)
    assert sorted(whole.items.array().tolist()) == [1, *range(4, 13)]
    assert (whole.names, whole.k) == ([], 5)
    new = GatewayRequest("n", "new", [], 3, 2_000, 1_000)
    harness.device.work(at(DEVICE_EVENTS, new, user="new"))
    assert harness.device.sent[RANKINGS.name][-1].seq == 0
    assert b"new" not in harness.device.rows, "a user without events gets no row"


def test_a_request_that_comes_too_late_or_in_lockstep_is_not_answered() -> None:
    harness = WorkersHarness()
    harness.device.wall = 3_000
    harness.send(GatewayRequest("r", "u", ASKED, 4, 2_000, 1_000))
    assert RANKINGS.name not in harness.device.sent
    lockstep = WorkersHarness(UNRANKED.model_copy(update={"lockstep": True}))
    lockstep.send(EpochBegin(0, 0, 0), GatewayRequest("r", "u", ASKED, 4, 2_000, 1_000))
    assert "lockstep" in lockstep.device.dead[0].reason
    for wrong in (GatewayRequest("", "u", [], 4, 2_000, 0), GatewayRequest("r", "u", [], 0, 2_000, 0)):
        harness.send(wrong)
    assert len(harness.device.dead) == 2


def test_a_click_on_a_ranked_list_is_an_outcome_among_what_was_shown() -> None:
    harness = WorkersHarness()
    harness.send(batch(2, 3))
    _, whole = harness.ranked("3", "1", "8", "7")
    number = ranking_impression(whole.id)
    harness.send(DeviceBatch("u", 2, ["3", "8", "7", "1"], bytes([0, 0, 0, 1]), [5] * 4, [number] * 4))
    harness.answer()
    (outcome,) = harness.device.sent[OUTCOMES.name]
    assert (outcome.seq, outcome.slate, outcome.target) == (5, "logged", 1)
    assert sorted(outcome.candidates.array().tolist()) == [1, 3, 7, 8]
    scores = dict(zip(whole.items.array().tolist(), whole.scores["mc2sf"].array().tolist(), strict=True))
    listed = outcome.candidates.array().tolist()
    assert outcome.ranks["mc2sf"] == rank([scores[key] for key in listed], outcome.target_index).rank, (
        "it is ranked as it was when it was shown"
    )


def test_a_ranking_waits_for_its_own_answer_and_is_dropped_in_the_end() -> None:
    harness = WorkersHarness()
    harness.send(GatewayRequest("r", "u", ASKED, 4, 2_000, 1_000))
    index = harness.device.device._index
    assert list(index.rankings) == ["r"]
    (request,) = harness.device.sent[DEVICE_UPLINK.name]
    assert (request.ranking, request.candidates.shape) == ("r", (4,))
    other = SlowPriors(**{f: getattr(_answer(harness), f) for f in SlowPriors.__struct_fields__} | {"ranking": "other"})
    harness.device.work(at(CLOUD_DOWNLINK, other))
    assert len(harness.device.sent[RANKINGS.name]) == 1
    harness.device.wall = 60_000
    harness.device.work()
    assert not index.rankings


def _answer(harness: WorkersHarness) -> SlowPriors:
    harness.cloud.work(*(at(DEVICE_UPLINK, record) for record in harness.device.sent[DEVICE_UPLINK.name]))
    priors: SlowPriors = harness.cloud.sent[CLOUD_DOWNLINK.name][-1]
    return priors


def test_a_forgotten_user_has_no_row_and_begins_anew() -> None:
    harness = WorkersHarness(FREE)
    harness.send(batch(*range(1, 6), kind=0), batch(2, 3, seq=5))
    harness.ranked(*ASKED)
    harness.send(batch(4, seq=7), GatewayRequest("s", "u", ASKED, 4, 2_000, 1_000), Forget("u", 0))
    assert [key for key in harness.device.rows if key.startswith(b"u")] == []
    assert not harness.device.device._index.rankings
    for topic in (OUTCOMES, RANKINGS, DEVICE_UPLINK):
        assert harness.device.sent[topic.name][-1] == Forget("u", 0)
    harness.answer()
    assert b"u" not in harness.cloud.rows
    harness.send(batch(9))
    assert (harness.device.state().seq, harness.device.state().clicks, harness.device.dead) == (1, [9], [])


def test_events_with_a_key_follow_the_users_last_ones_and_are_applied_once() -> None:
    harness = WorkersHarness()
    harness.send(batch(2, 3), batch(4, key="a"), batch(4, key="a"), batch(5, key="b"))
    harness.send(batch(4, key="a"), batch(6, seq=4))
    state = harness.device.state()
    assert (state.seq, state.clicks, harness.device.dead) == (5, [3, 4, 5, 6], [])
    for n in range(KEPT_KEYS):
        harness.send(batch(7, key=str(n)))
    assert len(harness.device.state().keys) == KEPT_KEYS
    harness.send(batch(4, key="a"))
    assert harness.device.state().seq == 5 + KEPT_KEYS + 1, "only the last keys are kept"


def test_a_key_that_comes_with_other_events_at_another_gateway_is_a_dead_letter() -> None:
    harness = WorkersHarness()
    harness.send(batch(2, key="a", body=1), batch(3, key="old"))
    harness.send(batch(2, key="a", body=1), batch(2, key="a"), batch(4, key="old", body=2))
    assert harness.device.dead == [], "a repeat, or a body that is not known"
    harness.send(batch(4, key="a", body=2))
    (dead,) = harness.device.dead
    assert dead.reason == "its idempotency key came with other events before"
    assert harness.device.state().clicks == [2, 3]
    for n in range(KEPT_KEYS):
        harness.send(batch(7, key=str(n), body=3))
    assert len(harness.device.state().keys) == KEPT_KEYS
    harness.send(batch(4, key="a", body=2))
    assert harness.device.state().clicks[-1] == 4, "its key is not known any more"
