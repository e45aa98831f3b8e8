"""Steam's public file: one Python dict literal a line. The quick lexer and `ast.literal_eval` must agree."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import InvalidError, RowError
from replay.sources.steam import DATE, ITEM, USER, fields
from streams.records import Kind
from tests.support.logs import read, skipped, write

VALUES = (
    st.text(max_size=20) | st.booleans() | st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
REVIEWS = st.fixed_dictionaries(
    {USER: st.text(min_size=1, max_size=20), ITEM: st.text(min_size=1, max_size=8), DATE: st.dates().map(str)},
    optional={"text": VALUES, "hours": VALUES, "products": VALUES, "u'user": VALUES, "}": VALUES, "a, 'b": VALUES},
)


def literal(review: dict[str, object], prefix: str = "u") -> str:
    """A line as UCSD's file has it: Python 2's repr of a dict."""

    def one(value: object) -> str:
        return prefix + repr(value) if isinstance(value, str) else repr(value)

    return "{" + ", ".join(f"{one(name)}: {one(value)}" for name, value in review.items()) + "}"


@given(REVIEWS, st.sampled_from(["u", ""]))
def test_the_fields_of_any_literal_are_what_python_reads(review: dict[str, object], prefix: str) -> None:
    found = fields(literal(review, prefix))
    assert {name: found[name] for name in (USER, ITEM, DATE)} == {name: review[name] for name in (USER, ITEM, DATE)}


@given(REVIEWS, st.integers(0, 200), st.sampled_from("'\"\\{},: un0\x00"))
def test_a_literal_with_a_character_put_in_is_what_python_reads_or_refused(
    review: dict[str, object], at: int, character: str
) -> None:
    line = literal(review)
    line = line[:at] + character + line[at:]
    try:
        found = fields(line)
    except InvalidError:
        return
    assert isinstance(found, dict)


def test_literals_that_the_lexer_does_not_cover_are_read_all_the_same() -> None:
    line = "{'found': ['1', {'a': 2}], u'username': 'a' 'b', 'product_id': u'7', 'date': '2017-01-02', 'n': 1L}"
    with pytest.raises(InvalidError):
        fields(line)  # Python 2's long
    assert fields(line.replace("1L", "-1"))["username"] == "ab"


def test_nothing_is_evaluated(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    line = f"{{'username': open({str(mark)!r}, 'w'), 'product_id': '1', 'date': '2017-01-02'}}"
    with pytest.raises(InvalidError, match="not a dict literal"):
        fields(line)
    assert not mark.exists()


@given(st.dates(date(1990, 1, 1), date(2026, 12, 31)))
def test_a_review_is_a_click_at_the_beginning_of_its_day(tmp_path_factory: pytest.TempPathFactory, day: date) -> None:
    review = {
        USER: "\u2665 o'neill",
        "hours": 1.5,
        ITEM: "70",
        DATE: str(day),
        "text": "won't :: {run}",
        "early": False,
    }
    path = write(tmp_path_factory.mktemp("steam") / "a.json.gz", literal(review))
    ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
    assert read(f"steam:{path}") == [("\u2665 o'neill", "70", ms, Kind.CLICK, 0)]


def test_integer_products_and_plain_files_are_read_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "{'username': 'x', 'product_id': 70, 'date': '2017-01-02'}\n")
    assert read(f"steam:{path}") == [("x", "70", 1_483_315_200_000, Kind.CLICK, 0)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{'username': 'x'}", "wrong columns .no product_id, date"),
        ("username,product_id,date", "not a dict literal"),
        ("{'username': 'x', 'product_id': '1', 'date': '2017-01-02'", "not a dict literal"),
        ('{"username": "x", "product_id": "1", "date": null}', "not a dict literal"),
        ("{'username': 'x', 'product_id': '1', 'date': None}", "date is not YYYY-MM-DD"),
        ("{'username': 'x', 'product_id': '1', 'date': 'May 5'}", "date is not YYYY-MM-DD"),
        ("{'username': 'x', 'product_id': '1', 'date': '2017-02-30'}", "time is neither a number nor ISO"),
        ("{'username': 'x', 'product_id': '1', 'date': '1969-02-03'}", "time is negative"),
        ("{'username': '', 'product_id': '1', 'date': '2017-01-02'}", "user is empty"),
        ("{'username': 'x', 'product_id': 1.5, 'date': '2017-01-02'}", "item is neither a string nor an integer"),
        ("[" * 5000, "not a dict literal"),
    ],
)
def test_a_bad_review_is_told_with_file_line_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    good = "{u'username': u'x', u'product_id': u'1', u'date': u'2017-01-02'}"
    path = write(tmp_path / "a.json.gz", f"{good}\n{line}\n{good}\n")
    with pytest.raises(RowError, match=rf"a\.json\.gz, line 2: {reason}"):
        read(f"steam:{path}")
    rows, refusals = skipped(f"steam:{path}")
    assert len(rows) == 2
    assert refusals.total == 1


def test_what_python_warns_of_is_read_in_silence(recwarn: pytest.WarningsRecorder) -> None:
    assert fields(r"{'username': '\d', 'product_id': '1'}") == {"username": r"\d", "product_id": "1"}
    with pytest.raises(InvalidError, match="not a dict literal"):
        fields("{'username': 1if 1else 2}")
    assert not recwarn.list


@settings(max_examples=200)
@given(st.text(max_size=80))
def test_any_text_is_fields_or_refused(text: str) -> None:
    if text.strip():
        try:
            fields(text)
        except InvalidError as error:
            assert error.reason == "not a dict literal"  # noqa: PT017 - both ends are right


def test_users_of_one_name_are_told_apart_by_their_id(tmp_path: Path) -> None:
    lines = [
        f"{{u'username': u'x', {user}u'product_id': u'1', u'date': u'2017-12-01'}}\n"
        for user in ("u'user_id': u'7', ", "u'user_id': u'8', ", "")
    ]
    path = write(tmp_path / "reviews.json", "".join(lines))
    assert [row[0] for row in read(f"steam:{path}")] == ["7", "8", "x"]
