"""Read columns out of `unknown_fields`: how a field that producers already send becomes a column of its own.

A value that fits the column's type becomes the column's value; any other leaves it null.
`unknown_fields` keeps the value in any case, so nothing is lost and no verdict depends on a promoted field.
The dbt macro `promoted` reads rows that are older than their column by the same rules.
"""

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.events import timestamp_micros
from lakehouse.tables import MICROS, TableSpec

_match_integer: Final = re.compile(r"-?\d+", re.ASCII).fullmatch
# The years 1 to 9999 in UTC: an offset can lead out of them, to where no engine follows.
_FIRST_MICROS: Final = -62_135_596_800 * 1_000_000
_END_MICROS: Final = 253_402_300_800 * 1_000_000
_LONG: Final = range(-(2**63), 2**63)


class _Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


_read: Final = json.JSONDecoder(parse_int=_Number, parse_float=_Number).decode


def promoted_columns(spec: TableSpec, unknown_fields: pa.Array) -> dict[str, pa.Array]:
    """Fill the promoted columns of a table.

    Args:
        spec: the table.
        unknown_fields: JSON object texts as `lakehouse.events` writes them, null where a row has none.

    Returns:
        One array per column with an `unknown_field`, as long as `unknown_fields`.
    """
    return {
        column.name: promote(unknown_fields, column.unknown_field, column.type)
        for column in spec.columns
        if column.unknown_field is not None
    }


def promote(unknown_fields: pa.Array, path: str, kind: pa.DataType) -> pa.Array:
    """Read one field of `unknown_fields` as an array of `kind`, null where it is absent or does not fit.

    | kind | fits |
    | --- | --- |
    | string | a string |
    | int64 | a number within 64 bits, written without fraction and exponent |
    | double | any number |
    | bool | `true` and `false` |
    | timestamp | a string that the contract reads as a timestamp, in the years 1 to 9999, plausible or not |
    """
    names = path.split(".")
    # Names stand in the text as JSON encodes them, without spaces; what holds this may still be another field's.
    mention = pc.MatchSubstringOptions(msgspec.json.encode(names[-1]).decode() + ":")
    mentioned = pc.call_function("match_substring", [unknown_fields], mention).fill_null(False)
    if mentioned.true_count == 0:
        return pa.nulls(len(unknown_fields), kind)
    fit = _FITTING[kind]
    texts = unknown_fields.filter(mentioned).to_pylist()
    values = pa.array([fit(_member(_read(text), names)) for text in texts], _STORED.get(kind, kind)).cast(kind)
    return pc.call_function("replace_with_mask", [pa.nulls(len(unknown_fields), kind), mentioned, values])


def _member(value: Any, names: list[str]) -> Any:
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _string(value: Any) -> str | None:
    return value if type(value) is str else None


def _long(value: Any) -> int | None:
    if type(value) is _Number and len(value) <= 20 and _match_integer(value) and int(value) in _LONG:
        return int(value)
    return None


def _double(value: Any) -> float | None:
    return float(value) if type(value) is _Number else None


def _boolean(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _micros(value: Any) -> int | None:
    micros = timestamp_micros(value) if type(value) is str else None
    return micros if micros is not None and _FIRST_MICROS <= micros < _END_MICROS else None


_FITTING: Final[Mapping[pa.DataType, Callable[[Any], Any]]] = MappingProxyType(
    {pa.string(): _string, pa.int64(): _long, pa.float64(): _double, pa.bool_(): _boolean, MICROS: _micros}
)
_STORED: Final[Mapping[pa.DataType, pa.DataType]] = MappingProxyType({MICROS: pa.int64()})
