"""Decode many messages at once that are laid out like one that the reference decoder accepted.

A producer writes its messages by one template: the bytes between the six values are the same each time.
So one message of a batch is decoded by the reference (`events.decode_exactly`), and every other one that has the
same bytes between its values, and no escape and no control character in them, is the same JSON with other strings.
That is a proof, not a guess: the text of a JSON string can be exchanged for any other UTF-8 text without quotes,
backslashes and control characters, and nothing else about the message changes.

The rules on the values are then checked for whole columns. A message that fits no layout, or whose values this module
does not vouch for, is left to the caller, who decodes it by itself: here nothing is ever refused.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse import events
from lakehouse.events import FIELDS, MAX_MESSAGE_BYTES, TIMESTAMP, Event, FieldRule

LAYOUTS_PER_BATCH: Final = 8
"""So many producers' layouts are learned in one batch; messages laid out in yet another way are decoded singly."""

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_Bytes = npt.NDArray[np.uint8]

_QUOTE, _BACKSLASH, _SPACE, _TILDE, _ZERO, _NINE = b'"\\ ~09'
_WORD: Final = 8
_QUOTES: Final = events.QUOTES_OF_A_PLAIN_EVENT
_MOST_FRACTION_DIGITS: Final = 9
_INVALID: Final = np.iinfo(np.int64).min
_FIELD_OF_KEY: Final = {rule.path.rpartition(".")[2].encode(): rule for rule in FIELDS}


class Columns(NamedTuple):
    """Accepted messages as columns.

    Attributes:
        rows: which messages of the batch they are, ascending.
        event_micros: the producer's time, microseconds since 1970-01-01 UTC.
        strings: the other fields, by column name.
    """

    rows: Ints
    event_micros: Ints
    strings: dict[str, pa.Array]


def decode_alike(values: pa.BinaryArray, kafka_micros: Ints) -> list[Columns]:
    """Decode the messages that are laid out like an accepted one; one result a layout.

    Args:
        values: the messages; null for a tombstone.
        kafka_micros: Kafka's timestamps, microseconds since 1970-01-01 UTC.
    """
    sizes = pc.call_function("binary_length", [values]).fill_null(0).to_numpy()
    small = np.flatnonzero(sizes <= MAX_MESSAGE_BYTES)
    if small.size < len(values):  # a huge message is refused by its size alone, so nobody needs to look into it
        alike = decode_alike(values.take(pa.array(small)), kafka_micros[small])
        return [columns._replace(rows=small[columns.rows]) for columns in alike]
    batch = _Batch(values, kafka_micros)
    found: list[Columns] = []
    rows = batch.candidates()
    for _ in range(LAYOUTS_PER_BATCH):
        if not rows.size:
            break
        layout = batch.layout_of(rows[0])
        if layout is None:
            rows = rows[1:]
            continue
        alike = batch.is_laid_out(rows, layout)
        found.append(batch.columns(rows[alike], layout))
        rows = rows[~alike]
    return found


class _Layout(NamedTuple):
    """How a producer writes an event.

    Attributes:
        fields: the rules in the order of the message.
        opening: index of the opening quote of each value among the quotes of the message.
        segments: the bytes before, between and after the values, quotes included.
    """

    fields: list[FieldRule]
    opening: list[int]
    segments: list[bytes]


class _Batch:
    def __init__(self, values: pa.BinaryArray, kafka_micros: Ints) -> None:
        _, offsets, data = values.buffers()
        ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
        self._values = values
        self._kafka_micros = kafka_micros
        self._data = data
        self._starts, self._ends = ends[:-1], ends[1:]
        self._bytes = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
        self._quotes = np.empty((0, _QUOTES), np.int64)

    def candidates(self) -> Ints:
        """The messages with as many quotes as a plain event, in valid UTF-8, without escapes and control characters."""
        if not len(self._values) or not self._bytes.size:
            return np.empty(0, np.int64)
        low, high = int(self._starts[0]), int(self._ends[-1])
        text = self._bytes[low:high]
        quotes = np.flatnonzero(text == _QUOTE) + low
        first = np.searchsorted(quotes, self._starts)
        count = np.diff(first, append=quotes.size)
        plain = count == _QUOTES
        if self._values.null_count:  # what lies behind a null is undefined
            plain[self._values.is_null().to_numpy(zero_copy_only=False)] = False
        # As signed bytes, what lies beyond ASCII is negative, so that one look finds it and the control characters.
        if (unusual := text.view(np.int8) < _SPACE).any():
            plain[self._rows_with(low, unusual & (text < _SPACE))] = False
            plain[self._invalid_utf8(self._rows_with(low, unusual & (text > _TILDE)))] = False
        if (escapes := text == _BACKSLASH).any():
            plain[self._rows_with(low, escapes)] = False
        rows = np.flatnonzero(plain)
        if rows.size == count.size:
            self._quotes = quotes.reshape(-1, _QUOTES)
        elif rows.size:
            self._quotes = np.empty((count.size, _QUOTES), np.int64)
            self._quotes[rows] = quotes[first[rows, None] + np.arange(_QUOTES)]
        return rows

    def _rows_with(self, low: int, marked: Mask) -> Ints:
        places = np.flatnonzero(marked)
        if not places.size:
            return places
        return np.unique(np.searchsorted(self._ends, places + low, side="right"))

    def _invalid_utf8(self, rows: Ints) -> Ints:
        """Those of the rows that are not UTF-8; all of them when one is not, because nobody says which."""
        try:
            self._values.take(pa.array(rows)).cast(pa.string())
        except pa.ArrowInvalid:
            return rows
        return rows[:0]

    def layout_of(self, row: np.int64) -> _Layout | None:
        """The layout of one candidate; None when the reference refuses it."""
        raw = self._values[int(row)].as_py()
        if not isinstance(events.decode_exactly(raw, int(self._kafka_micros[row])), Event):
            return None
        quotes = (self._quotes[row] - self._starts[row]).tolist()
        # It names eight fields and has six values, all different, so what follows a key of a value is that value.
        strings = [raw[start + 1 : end] for start, end in zip(quotes[::2], quotes[1::2], strict=True)]
        keys = [raw[end + 1 :].lstrip(b" ").startswith(b":") for end in quotes[1::2]]
        places = [k for k, is_key in enumerate(keys) if not is_key]
        edges = [0, *(quotes[2 * k + side] for k in places for side in (0, 1)), len(raw)]
        return _Layout(
            fields=[_FIELD_OF_KEY[strings[k - 1]] for k in places],
            opening=[2 * k for k in places],
            segments=[raw[start : end + 1] for start, end in zip(edges[::2], edges[1::2], strict=True)],
        )

    def is_laid_out(self, rows: Ints, layout: _Layout) -> Mask:
        """Which of the candidates have the layout's bytes before, between and after their values."""
        quotes = self._quotes[rows]
        starts = [self._starts[rows], *(quotes[:, k + 1] for k in layout.opening)]
        ends = [*(quotes[:, k] + 1 for k in layout.opening), self._ends[rows]]
        sizes = np.array([len(segment) for segment in layout.segments])
        fitting = np.flatnonzero((np.stack(ends) - np.stack(starts) == sizes[:, None]).all(axis=0))
        same = np.ones(fitting.size, np.bool_)
        for start, segment in zip(starts, layout.segments, strict=True):
            same &= self._is_at(start[fitting], segment)
        alike = np.zeros(rows.size, np.bool_)
        alike[fitting] = same
        return alike

    def _is_at(self, starts: Ints, segment: bytes) -> Mask:
        """Whether the segment stands at each start; looked at in words of eight bytes, the last two may overlap."""
        if len(segment) < _WORD:
            return (self._window(starts, len(segment)) == np.frombuffer(segment, np.uint8)).all(axis=1)
        words = np.ndarray((self._bytes.size - _WORD + 1,), np.uint64, self._bytes, strides=(1,))
        same = np.ones(starts.size, np.bool_)
        for place in (*range(0, len(segment) - _WORD, _WORD), len(segment) - _WORD):
            same &= words[starts + place] == np.frombuffer(segment, np.uint64, 1, place)[0]
        return same

    def _window(self, starts: Ints, length: int) -> _Bytes:
        """So many bytes from each start on."""
        return np.lib.stride_tricks.sliding_window_view(self._bytes, length)[starts]

    def columns(self, rows: Ints, layout: _Layout) -> Columns:
        """The messages of a layout whose values keep the rules, as columns."""
        quotes = self._quotes[rows]
        spans = {
            rule: (quotes[:, k] + 1, quotes[:, k + 1]) for rule, k in zip(layout.fields, layout.opening, strict=True)
        }
        start, end = spans.pop(TIMESTAMP)
        event_micros = self._timestamps(start, end)
        kept = event_micros != _INVALID
        kept &= events.is_plausible(np.where(kept, event_micros, 0) - self._kafka_micros[rows])
        for rule, (start, end) in spans.items():
            size = end - start
            kept &= (size > 0) & (size <= rule.max_characters)  # in bytes, which are never fewer than the characters
        strings = {rule.column: self._strings(start, end) for rule, (start, end) in spans.items()}
        for rule, (start, _) in spans.items():
            first = self._bytes[np.minimum(start, self._bytes.size - 1)]
            unsure = (first <= _SPACE) | (first > _TILDE)
            if unsure.any():
                kept[unsure] &= _not_blank(strings[rule.column].filter(pa.array(unsure)))
        if not kept.all():
            chosen = pa.array(kept)
            strings = {column: array.filter(chosen) for column, array in strings.items()}
            rows, event_micros = rows[kept], event_micros[kept]
        return Columns(rows, event_micros, strings)

    def _strings(self, start: Ints, end: Ints) -> pa.Array:
        # Values and the gaps between them as one array over the bytes as they lie; then the values alone.
        edges = np.empty(2 * start.size, np.int32)
        edges[::2], edges[1::2] = start, end
        pieces = pa.Array.from_buffers(pa.string(), max(0, edges.size - 1), [None, pa.py_buffer(edges), self._data])
        return pieces.take(pa.array(np.arange(0, edges.size, 2, dtype=np.int32)))

    def _timestamps(self, start: Ints, end: Ints) -> Ints:
        """Microseconds since 1970-01-01 UTC; `_INVALID` for what the reference has to look at."""
        size = end - start
        sound = (size >= 20) & (size <= TIMESTAMP.max_characters)
        micros = np.full(size.size, _INVALID, np.int64)
        last = self._bytes[end - 1]
        zone_size = np.where((last == ord("Z")) | (last == ord("z")), 1, 6)
        # So few shapes occur that each is worth a pass: with and without fraction, Z or offset.
        shape = np.where(sound, 8 * size + zone_size, 0)
        for kind in np.unique(shape[sound]).tolist():
            rows = np.flatnonzero(shape == kind)
            micros[rows] = self._timestamps_of_shape(start[rows], *divmod(kind, 8))
        return micros

    def _timestamps_of_shape(self, start: Ints, size: int, zone_size: int) -> Ints:
        digits = size - zone_size - 20
        if digits < -1 or digits == 0 or digits > _MOST_FRACTION_DIGITS:
            return np.full(start.size, _INVALID, np.int64)
        minute = _looked_up(self._window(start, 17), events.minute_micros)
        # The seconds and the zone stand together in the reference; 60 of them with each zone.
        rest = np.concatenate([self._window(start + 17, 2), self._window(start + size - zone_size, zone_size)], axis=1)
        second = _looked_up(rest, events.second_micros)
        micros = np.where((minute == _INVALID) | (second == _INVALID), _INVALID, minute + second)
        if digits < 0:
            return micros
        fraction = self._window(start + 19, digits + 1)
        numbers = fraction[:, 1:]
        sound = (fraction[:, 0] == ord(".")) & ((numbers >= _ZERO) & (numbers <= _NINE)).all(axis=1)
        value = np.zeros(start.size, np.int64)
        for column in range(min(digits, 6)):  # cut, not rounded, as the reference does
            value = 10 * value + (numbers[:, column].astype(np.int64) - _ZERO)
        return np.where(sound & (micros != _INVALID), micros + value * 10 ** max(0, 6 - digits), _INVALID)


def _looked_up(texts: _Bytes, micros: Any) -> Ints:
    """Apply a function of the reference to each different text once."""
    width = texts.shape[1]
    array = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), texts.shape[0], [None, pa.py_buffer(np.ascontiguousarray(texts))]
    ).dictionary_encode()
    known = [micros(text.decode("latin-1")) for text in array.dictionary.to_pylist()]
    table = np.array([_INVALID if value is None else value for value in known], np.int64)
    return table[array.indices.to_numpy()]


def _not_blank(texts: pa.Array) -> Mask:
    array = texts.dictionary_encode()
    table = np.array([not text.isspace() for text in array.dictionary.to_pylist()], np.bool_)
    return table[array.indices.to_numpy()]
