"""Conversion of the columns of a log to events: column by column, and row by row only for rows with invalid values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replay.errors import InvalidError, RowError, RowErrors, shown, shown_number
from replay.sources import columns
from replay.sources.columns import KINDS, NO_IMPRESSION, NO_VALUE, TIME_OF_DAY
from replay.sources.log_map import GENERIC, LogMap
from replay.sources.schema import IMPRESSIONS, NAME_BYTES, READ, ROWS, Row
from replay.times import MS
from replay.values.joined_times import joined
from replay.values.slates import Histories, expanded
from replay.values.table import Table
from replay.values.time_column import is_moment, time_column
from replay.values.times import Times
from replay.values.whole_numbers import all_digits, canonical_numbers, is_text
from streams.records import Kind
from streams.settings import Exposures

IGNORED: Final = -1  # in a column of kinds: the row is left out
LEFT_OUT = "events that the map ignores"
FIRST = 3  # doubtful values of a block that are shown

Problem = tuple[int, str, str]  # line, reason and detail, as in RowError
Numbers = npt.NDArray[np.int64]

_TRUTH: Final = {"true": 1, "t": 1, "yes": 1, "y": 1, "false": 0, "f": 0, "no": 0, "n": 0}
_EVENTS: Final = {"click": Kind.CLICK, "exposure": Kind.EXPOSURE, "ignore": None}


@dataclass(frozen=True)
class EventReader:
    """Converts the values of a log to events according to its map."""

    log_map: LogMap = GENERIC
    policy: Exposures = "logged"
    histories: Histories | None = None  # column of clicks before the log; None: the log has none

    def events(self, table: Table, errors: RowErrors, line_problems: Sequence[Problem] = ()) -> pa.RecordBatch:
        """Return the events with their locations, in the order of the rows; invalid rows are added to `errors`.

        `line_problems` are lines that could not be split into rows. Ignored events are counted in `errors.left_out`.
        """
        if TIME_OF_DAY in table.rows.schema.names:
            table = replace(table, rows=joined(table.rows, self.log_map.time_format))
        kinds = self._kinds(table.rows)
        if self.log_map.decides == "click" or (self.log_map.decides == "rating" and self.policy == "rated"):
            self._doubt_scale(table, self.log_map.decides, errors)
        if ignored := pc.sum(pc.equal(kinds, IGNORED)).as_py():
            kept = pc.fill_null(pc.not_equal(kinds, IGNORED), True).to_numpy(zero_copy_only=False)
            errors.left_out[LEFT_OUT] += ignored
            table, kinds = table.filter(kept), kinds.filter(pa.array(kept))
        problems = list(line_problems)
        batches = []
        if self.histories is not None:
            past, ms = self.histories.past(table.filter(self._described(table.rows, kinds)))
            kind = pa.array(np.full(past.rows.num_rows, int(Kind.PAST_CLICK), np.int8))
            batches.append(self._valid(past, kind, (ms, pa.nulls(len(ms), pa.int32())), errors, problems))
        if self.log_map.slate:
            table, kinds = expanded(table, kinds, self.log_map.slate, len(errors.files) - 1)
        batches.append(self._valid(table, kinds, time_column(table.rows["timestamp"], self.times), errors, problems))
        for line, reason, detail in sorted(problems):
            errors.add(RowError(table.path, line, reason, detail, unit=table.unit))
        return (pa.concat_batches(batches) if len(batches) > 1 else batches[0]).cast(READ)

    def _doubt_scale(self, table: Table, column: Literal["click", "rating"], errors: RowErrors) -> None:
        """Report values that the default of `click_from` is not meant for, and ratings of -1."""
        numbers = per_value(table.rows[column], pa.float64(), number_of)
        doubts = {f"{column}-scale": pc.greater(numbers, self.log_map.largest_expected)}
        if column == "rating" and -1 not in self._null_numbers:
            doubts["missing-ratings"] = pc.equal(numbers, -1)
        for finding, doubtful in doubts.items():
            rows = np.flatnonzero(pc.fill_null(doubtful, False))
            if len(rows):
                first = [(int(table.lines[row]), numbers[row].as_py()) for row in rows[:FIRST].tolist()]
                places = [f"{table.path}, {table.unit} {line:,}: {number:g}" for line, number in first]
                errors.doubt(finding, places, len(rows))

    def _described(self, rows: pa.RecordBatch, kinds: pa.Array) -> npt.NDArray[np.bool_]:
        """Return True for each row whose own values, the items of its slate aside, are valid."""
        times, _ = time_column(rows["timestamp"], self.times)
        valid = np.ones(rows.num_rows, np.bool_)
        for column in (kinds, times, self._names("user", rows["user"]), self._impressions(rows)):
            valid &= column.is_valid().to_numpy(zero_copy_only=False)
        return valid

    def _valid(
        self, table: Table, kinds: pa.Array, time: tuple[pa.Array, pa.Array], errors: RowErrors, problems: list[Problem]
    ) -> pa.RecordBatch:
        """Return the valid rows; the others are added to `problems`."""
        rows = table.rows
        names = (self._names(name, rows[name]) for name in ("user", "item"))
        arrays = [*names, time[0], kinds, self._impressions(rows)]
        file = pa.array(np.full(rows.num_rows, len(errors.files) - 1, np.int32))
        batch = pa.RecordBatch.from_arrays([*arrays, file, pa.array(table.lines), time[1]], schema=_NULLABLE)
        nulls = [column.is_null().to_numpy(zero_copy_only=False) for column in arrays if column.null_count]
        return self._read_again(batch, table, np.flatnonzero(np.any(nulls, axis=0)), problems) if nulls else batch

    def row(self, values: dict[str, object], code: int | None = None, ms: int | None = None) -> Row | None:
        """Return the event of a row from its values; None: it is ignored. Raises InvalidError.

        `code` is its kind and `ms` its time, if they are known already.
        """
        if code is not None:
            kind: Kind | None = Kind(code)
        else:
            kind = self._fixed_kind if self.log_map.decides is None else self._kind(values[self.log_map.decides])
        if kind is None:
            return None
        user, item = (columns.name(name, values[name], self._no_value) for name in ("user", "item"))
        time = self.times.ns(values["timestamp"]) // MS if ms is None else ms
        return user, item, time, kind, columns.impression(values.get("impression"), self._no_impression)

    @cached_property
    def times(self) -> Times:
        """The reader of times."""
        return Times(self.log_map.time_unit, self.log_map.time_format, self.log_map.tz)

    @cached_property
    def _no_value(self) -> frozenset[str]:
        return frozenset(NO_VALUE) | self._null

    @cached_property
    def _null(self) -> frozenset[str]:
        return frozenset(text.strip().lower() for text in self.log_map.null)

    @cached_property
    def _null_numbers(self) -> frozenset[float]:
        return frozenset(number for text in self._null if (number := number_of(text)) is not None)

    @cached_property
    def _no_impression(self) -> frozenset[str]:
        return self._no_value | set(NO_IMPRESSION)

    @cached_property
    def _fixed_kind(self) -> Kind | None:
        return _EVENTS[self.log_map.event or "click"]

    @cached_property
    def _words(self) -> dict[str, Kind | None]:
        return {**KINDS, **{word: _EVENTS[kind] for word, kind in self.log_map.events.items()}}

    def _kind(self, value: object) -> Kind | None:
        """Return the kind of event for a value of the deciding column; None: ignored. Raises InvalidError."""
        if self.log_map.decides == "event":
            word = ""
            with suppress(InvalidError):
                word = str(value).lower() if isinstance(value, bool) else columns.text("event", value)
            if word not in self._words and "*" not in self._words:
                close = word.strip().lower() in {known.strip().lower() for known in self._words}
                hint = ": case and blanks matter, --events names its kind" if close else ""
                raise InvalidError("unknown event kind", shown(value) + hint)
            return self._words.get(word, self._words.get("*"))
        number = number_of(value)
        if number in self._null_numbers or str(value).strip().lower() in self._null:
            raise InvalidError(f"{self.log_map.decides} is a placeholder for no value", shown(value))
        if number is None:
            raise InvalidError(f"{self.log_map.decides} is no number", shown_number(value))
        if self.log_map.decides == "rating" and self.policy != "rated":
            return Kind.CLICK
        return Kind.CLICK if number >= self.log_map.smallest_click else Kind.EXPOSURE

    def _kinds(self, rows: pa.RecordBatch) -> pa.Array:
        """Return the kind of each row; null where it is not valid."""
        if self.log_map.decides is None:
            return pa.array(np.full(rows.num_rows, self._fixed_kind, np.int8))
        return per_value(
            rows[self.log_map.decides], pa.int8(), lambda v: IGNORED if (k := self._kind(v)) is None else int(k)
        )

    def _names(self, column_name: str, column: pa.Array) -> pa.DictionaryArray:
        """Return users or items as text; null where the value is not valid."""
        if not (_is_text(column) or pa.types.is_integer(column.type)):
            return per_value(
                column, pa.string(), lambda value: columns.name(column_name, value, self._no_value)
            ).dictionary_encode()
        encoded = pc.cast(column, pa.string()).dictionary_encode()
        text = encoded.dictionary  # each name is checked once
        if not self.log_map.null and all_digits(text):
            return encoded
        bad = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(text)), pa.array(sorted(self._no_value)))
        bad = pc.or_(pc.or_(bad, pc.greater(pc.binary_length(text), NAME_BYTES)), pc.match_substring(text, "\0"))
        if not pc.any(bad).as_py():
            return encoded
        return pa.DictionaryArray.from_arrays(pc.if_else(bad.take(encoded.indices), None, encoded.indices), text)

    def _impressions(self, rows: pa.RecordBatch) -> pa.Array:
        """Return the numbers of impressions, 0 for none; null where the value is not valid."""
        if "impression" not in rows.schema.names:
            return pa.array(np.zeros(rows.num_rows, np.int64))
        column = rows["impression"]
        if not self.log_map.null and not column.null_count:  # fast path: all are canonical integers
            numbers = canonical_numbers(column)
            if numbers is not None:
                span = pc.min_max(numbers).as_py()
                if (span["min"] or 1) > 0 and (span["max"] or 1) < IMPRESSIONS:
                    return numbers
        return per_value(column, pa.int64(), lambda value: columns.impression(value, self._no_impression))

    def _read_again(
        self, batch: pa.RecordBatch, table: Table, invalid: Numbers, problems: list[Problem]
    ) -> pa.RecordBatch:
        """Return the batch with its `invalid` rows read one by one; those that stay invalid are added to `problems`."""
        batch = batch.cast(_TEXTS)
        read: list[Row] = []
        indices: list[int] = []
        rows = table.rows.take(pa.array(invalid))
        if "timestamp" in rows.schema.names and is_moment(rows["timestamp"]):  # may be out of the range of datetime
            position, texts = rows.schema.names.index("timestamp"), rows["timestamp"].cast(pa.string())
            rows = rows.set_column(position, "timestamp", texts)
        for index, values in zip(invalid.tolist(), rows.to_pylist(), strict=True):
            try:
                row = self.row(values, batch["kind"][index].as_py(), batch["time"][index].as_py())
            except InvalidError as error:
                problems.append((int(table.lines[index]), error.reason, error.detail))
            else:
                if row is not None:
                    read.append(row)
                    indices.append(index)
        valid = np.delete(np.arange(batch.num_rows), invalid)
        first = batch.take(pa.array(valid))
        if not read:
            return first.cast(_NULLABLE)
        values = zip(*read, strict=True)
        read_again = [pa.array(list(c), f.type) for c, f in zip(values, ROWS, strict=True)]
        others = batch.take(pa.array(indices)).columns[len(ROWS) :]
        second = pa.RecordBatch.from_arrays([*read_again, *others], schema=_TEXTS)
        order = np.argsort(np.concatenate([valid, indices]), kind="stable")
        return pa.concat_batches([first, second]).take(pa.array(order)).cast(_NULLABLE)


def per_value(column: pa.Array, kind: pa.DataType, read: Callable[[object], object]) -> pa.Array:
    """Return `read` of each value, or null where it raises InvalidError; it is called once per distinct value."""

    def valid(value: object) -> object:
        try:
            return read(value)
        except InvalidError:
            return None

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        encoded = pc.dictionary_encode(column, null_encoding="encode")
    except pa.ArrowNotImplementedError:  # a UUID, a list
        return pa.array(map(valid, column.to_pylist()), kind)
    return pa.array(map(valid, encoded.dictionary.to_pylist()), kind).take(encoded.indices)


def _is_text(column: pa.Array) -> bool:
    return is_text(column) or (pa.types.is_dictionary(column.type) and is_text(column.dictionary))


def number_of(value: object) -> float | None:
    """Return a value (number, text or truth value) as a number; None for NaN, infinity and others."""
    if isinstance(value, str):
        value = _TRUTH.get(text := value.strip().lower(), text.replace("_", "x"))
    try:
        number = float(value)  # type: ignore[arg-type]  # what it can't take raises TypeError
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


_NULLABLE = pa.schema([pa.field(f.name, f.type) for f in READ])
_TEXTS = pa.schema([(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in READ])
