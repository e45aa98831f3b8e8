"""Public logs as they come: each preset on a small file of its published shape, against counts by hand."""

from __future__ import annotations

import csv
import json
import tomllib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from replay.errors import RowErrors, SourceError
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.log_map import read_map
from replay.sources.presets import map_text, presets
from replay.sources.source import Source, parse
from streams.records import Kind
from tests.support.logs import read, skipped, write

NOW = 1_700_000_000
ROWS = [(n % 4, n * 3 % 7, n % 5 + 1, NOW + 60 * n) for n in range(20)]  # user, item, rating, s


def lines(*rows: object) -> str:
    return "".join(f"{row}\n" for row in rows)


def iso(seconds: int, form: str) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


RATED = {
    "ml-100k": ("u.data", "", "{u}\t{i}\t{r}\t{t}"),
    "ml-1m": ("ratings.dat", "", "{u}::{i}::{r}::{t}"),
    "ml-10m": ("ratings.dat", "", "{u}::{i}::{r}::{t}"),
    **{
        f"ml-{size}": ("ratings.csv", "userId,movieId,rating,timestamp", "{u},{i},{r}.0,{t}")
        for size in ("20m", "25m", "32m", "latest")
    },
    "amazon": ("ratings_Books.csv", "", "{u},{i},{r}.0,{t}"),
    "amazon-2018": ("Books.csv", "", "{i},{u},{r}.0,{t}"),
    "amazon-2023": ("Books.csv", "user_id,parent_asin,rating,timestamp", "{u},{i},{r}.0,{t}000"),
    "recbole-ratings": (
        "a.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "{u}\t{i}\t{r}.0\t{t}.0",
    ),
}


@pytest.mark.parametrize("scheme", RATED)
def test_ratings_from_4_up_are_clicks_and_others_exposures_or_all_are_clicks(tmp_path: Path, scheme: str) -> None:
    name, header, form = RATED[scheme]
    rows = [form.format(u=u, i=i, r=r, t=t) for u, i, r, t in ROWS]
    write(tmp_path / name, lines(*filter(None, [header]), *rows))
    source = f"{scheme}:{tmp_path if presets()[scheme].file else tmp_path / name}"
    click, exposure = Kind.CLICK, Kind.EXPOSURE
    assert read(source) == [(str(u), str(i), t * 1000, click if r >= 4 else exposure, 0) for u, i, r, t in ROWS]
    assert {row[3] for row in read(source, "simulated")} == {click}


CLICKS = {
    "recbole": ("a.inter", "user_id:token\titem_id:token\ttimestamp:float", "{u}\t{i}\t{t}"),
    "retailrocket": ("events.csv", "timestamp,visitorid,event,itemid,transactionid", "{t}000,{u},{w},{i},"),
    "taobao": ("UserBehavior.csv", "", "{u},{i},9,{w},{t}"),
    "yoochoose": ("yoochoose-clicks.dat", "", "{u},{iso}.000Z,{i},0"),
    "rees46": (
        "2019-Oct.csv",
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session",
        "{blank} UTC,{w},{i},2053013555631882655,electronics.smartphone,,35.79,{u},72d76fde-8bb3",
    ),
    "lastfm-1k": (
        "userid-timestamp-artid-artname-traid-traname.tsv",
        "",
        '{u}\t{iso}Z\tf1b1cf71-bd35\t{i}\t\tThe "Song"',
    ),
}
OTHERS = {  # name and one row with the time {t}
    "otto": ("a.jsonl", '{{"session": 1, "events": [{{"aid": 2, "ts": {t}, "type": "clicks"}}]}}'),
    "kuairand": ("log_a.csv", "user_id,video_id,time_ms,is_click\n1,2,{t},1"),
    "recbole-labels": ("a.inter", "user_id:token\titem_id:token\ttimestamp:float\tlabel:float\n1\t2\t{t}\t1"),
    "trivago": ("train.csv", "user_id,timestamp,action_type,reference,impressions\nu,{t},clickout item,1,1|2"),
    "metarank": (
        "a.jsonl",
        '{{"event": "interaction", "type": "click", "timestamp": "{t}", "user": "u", "item": "i"}}',
    ),
    "log": ("a.csv", "user,item,timestamp,event\nu,i,{t},click"),
}
TIMED = OTHERS | {
    scheme: (name, "\n".join(filter(None, [header, form])))
    for scheme, (name, header, form) in (RATED | CLICKS).items()
    if "{t}" in form
}
WORDS = {
    "retailrocket": ("view", "addtocart", "transaction"),
    "taobao": ("pv", "cart", "fav", "buy"),
    "rees46": ("view", "cart", "purchase"),
}


@pytest.mark.parametrize("scheme", CLICKS)
def test_each_event_is_a_click(tmp_path: Path, scheme: str) -> None:
    name, header, form = CLICKS[scheme]
    words = WORDS.get(scheme, ("",))
    rows = [
        form.format(
            u=u, i=i, t=t, w=words[n % len(words)], iso=iso(t, "%Y-%m-%dT%H:%M:%S"), blank=iso(t, "%Y-%m-%d %H:%M:%S")
        )
        for n, (u, i, _, t) in enumerate(ROWS)
    ]
    write(tmp_path / name, lines(*filter(None, [header]), *rows))
    assert read(f"{scheme}:{tmp_path / name}") == [(str(u), str(i), t * 1000, Kind.CLICK, 0) for u, i, _, t in ROWS]


def test_what_leaves_a_cart_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    header = CLICKS["rees46"][1]
    path.write_text(lines(header, "2019-11-01 00:00:00 UTC,remove_from_cart,5,,,,1.0,7,s"))
    errors = RowErrors()
    assert not read(f"rees46:{path}", None, errors)
    assert sum(errors.left_out.values()) == 1


def test_otto_has_a_list_of_events_in_each_session(tmp_path: Path) -> None:
    kinds = ("clicks", "carts", "orders")
    sessions = [
        {
            "session": user,
            "events": [{"aid": i, "ts": t * 1000, "type": kinds[i % 3]} for u, i, _, t in ROWS if u == user],
        }
        for user in range(4)
    ]
    path = write(tmp_path / "train.jsonl", lines(*map(json.dumps, sessions)))
    assert sorted(read(f"otto:{path}")) == sorted((str(u), str(i), t * 1000, Kind.CLICK, 0) for u, i, _, t in ROWS)


@pytest.mark.parametrize(
    ("scheme", "name", "header", "form"),
    [
        ("kuairand", "log_random_4_22_to_5_08_1k.csv", "user_id,video_id,date,hourmin,time_ms,is_click,is_like", "csv"),
        ("recbole-labels", "a.inter", "user_id:token\titem_id:token\ttimestamp:float\tlabel:float", "inter"),
    ],
)
def test_a_column_says_whether_what_was_shown_was_clicked(
    tmp_path: Path, scheme: str, name: str, header: str, form: str
) -> None:
    rows = [
        f"{u},{i},20231114,2213,{t}000,{r % 2},0" if form == "csv" else f"{u}\t{i}\t{t}\t{r % 2}.0"
        for u, i, r, t in ROWS
    ]
    write(tmp_path / name, lines(header, *rows))
    write(tmp_path / "user_features.csv", "user_id,age\n1,2\n")
    source = f"{scheme}:{tmp_path if scheme == 'kuairand' else tmp_path / name}"
    clicks, exposures = Kind.CLICK, Kind.EXPOSURE
    assert read(source) == [(str(u), str(i), t * 1000, clicks if r % 2 else exposures, 0) for u, i, r, t in ROWS]


def test_mind_has_impressions_with_their_clicks_and_the_clicks_before_them_once_a_user(tmp_path: Path) -> None:
    path = tmp_path / "behaviors.tsv"
    path.write_text(
        "1\tU1\t11/15/2019 8:55:22 AM\tN1 N2\tN3-0 N4-1 N5-0\n"
        "2\tU2\t11/15/2019 1:00:00 PM\t\tN3-1\n"
        "3\tU1\t11/16/2019 12:00:00 AM\tN1 N2\tN6-1 N7-1\n"
    )
    first, noon, next_day = (1573808122_000, 1573822800_000, 1573862400_000)
    past, click, shown = Kind.PAST_CLICK, Kind.CLICK, Kind.EXPOSURE
    assert read(f"mind:{tmp_path}") == [
        ("U1", "N1", first - 2, past, 0),
        ("U1", "N2", first - 1, past, 0),
        ("U1", "N3", first, shown, 1),
        ("U1", "N4", first, click, 1),
        ("U1", "N5", first, shown, 1),
        ("U2", "N3", noon, click, 2),
        ("U1", "N6", next_day, click, 3),
        ("U1", "N7", next_day, click, 3),
    ]


def test_trivago_s_lists_are_impressions_and_other_actions_are_counted(tmp_path: Path) -> None:
    header = "user_id,session_id,timestamp,step,action_type,reference,platform,city,device,current_filters"
    actions = [
        ("search for poi", "Port, Spain", ""),
        ("clickout item", "20", "10|20|30"),
        ("clickout item", "9", "10|20"),
    ]
    with (tmp_path / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*header.split(","), "impressions", "prices"])
        for step, (action, reference, shown) in enumerate(actions):
            table.writerow(["u", "s", NOW + step, step, action, reference, "US", "Rome", "mobile", "", shown, "1|2|3"])
    errors = RowErrors()
    rows = read(f"trivago:{tmp_path}", None, errors)
    assert [(row[1], row[3]) for row in rows] == [
        *(("10", Kind.EXPOSURE), ("20", Kind.CLICK), ("30", Kind.EXPOSURE)),
        *(("10", Kind.EXPOSURE), ("20", Kind.EXPOSURE), ("9", Kind.CLICK)),
    ]
    assert [len(set(part)) for part in ([row[4] for row in rows[:3]], [row[4] for row in rows])] == [1, 2]
    assert sum(errors.left_out.values()) == 1


def test_metarank_s_rankings_are_impressions_of_the_clicks_that_name_them(tmp_path: Path) -> None:
    ranking = {"event": "ranking", "id": "r1", "timestamp": f"{NOW}000", "user": "u", "session": "s"}
    click = {
        "event": "interaction",
        "id": "x",
        "timestamp": f"{NOW + 5}000",
        "user": "u",
        "session": "s",
        "type": "click",
    }
    events: list[dict[str, object]] = [
        {"event": "item", "id": "i", "timestamp": f"{NOW}000", "item": "p1", "fields": []},
        ranking | {"items": [{"id": "p1"}, {"id": "p2", "fields": []}]},
        click | {"item": "p2", "ranking": "r1"},
        click | {"item": "p9"},
        click | {"type": "purchase", "item": "p2"},
    ]
    path = write(tmp_path / "events.jsonl", lines(*map(json.dumps, events), '{"event": "?"}'))
    rows, errors = skipped(f"metarank:{path}")
    assert [(row[1], row[3]) for row in rows] == [
        *(("p1", Kind.EXPOSURE), ("p2", Kind.EXPOSURE), ("p2", Kind.CLICK), ("p9", Kind.CLICK))
    ]
    assert [row[4] > 0 for row in rows] == [True, True, True, False]
    assert dict(errors.counts) == {"unknown event kind": 1}
    assert sum(errors.left_out.values()) == 2


def test_the_map_that_is_printed_reads_the_log_as_the_preset_does(tmp_path: Path) -> None:
    for scheme, preset in presets().items():
        if preset.map is not None:
            path = write(tmp_path / f"{scheme}.toml", map_text(scheme))
            assert read_map(path) == preset.map
        assert tomllib.loads(map_text(scheme)) or preset.map is None


def test_every_preset_says_what_it_holds_and_where_it_is_and_has_a_test(tmp_path: Path) -> None:
    text = Path(__file__).read_text()
    for scheme, preset in presets().items():
        assert preset.title
        assert preset.publisher
        assert preset.address.startswith(("http", "docs/"))
        assert isinstance(parse(f"{scheme}:{tmp_path / 'x'}"), Source)
        assert scheme in {"steam", "ebnerd", "alipay"} or scheme in text or scheme in RATED, (
            scheme
        )  # they have their own


@pytest.mark.parametrize("scheme", TIMED)
@pytest.mark.parametrize("time", [20230518, 20230518093000, 2023, 19495, 470_000])
def test_dates_years_days_and_hours_are_not_read_as_seconds(tmp_path: Path, scheme: str, time: int) -> None:
    name, form = TIMED[scheme]
    path = write(tmp_path / name, form.format(u=1, i=2, r=5, t=time, w=WORDS.get(scheme, ("",))[0]) + "\n")
    rows, errors = skipped(f"{scheme}:{tmp_path if presets().get(scheme) and presets()[scheme].file else path}")
    assert not rows
    (reason,) = errors.counts
    assert reason.startswith(("time is outside the years", "time is beyond", "time is not whole seconds"))
    assert f"{name}, line {len(path.read_text().splitlines())}: " in errors.first[0]


def test_a_preset_is_prepared_like_any_log(tmp_path: Path) -> None:
    name, _, form = CLICKS["taobao"]
    path = write(tmp_path / name, lines(*(form.format(u=u, i=i, t=t, w="pv") for u, i, _, t in ROWS)))
    plan = prepare(parse(f"taobao:{tmp_path}"), Options(exposures="logged"), tmp_path / "plan")
    counts = Counter(row[0] for row in ROWS)
    assert (plan.contents.clicks, plan.contents.users, plan.contents.rows) == (20, len(counts), 20)
    path.write_text(path.read_text() + "1,2,3,pv,20171201\n")
    with pytest.raises(SourceError, match=r"line 21: time is outside the years"):
        prepare(parse(f"taobao:{path}"), Options(), tmp_path / "again")
