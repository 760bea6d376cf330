"""What a run may be given: the params of its DAG, and no address that a caller chose."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator, FormatChecker

from lakehouse.api.problems import Fault

SPARK_MASTER: Final = "spark_master"
_FORMATS: Final = FormatChecker()
_is_local_master: Final = re.compile(r"local(\[(\*|[1-9]\d?)(,[1-9]\d?)?\])?").fullmatch


def faults(
    conf: Mapping[str, Any], params: Mapping[str, Mapping[str, Any]], spark_masters: Collection[str]
) -> Iterator[Fault]:
    """Yield what of a run's `conf` does not fit.

    Args:
        conf: what a caller wants a run to be given.
        params: of the DAG, as Airflow tells them: `schema` is the JSON schema of a value.
        spark_masters: to which Spark may go with our keys, beside this machine.
    """
    try:
        json.dumps(conf, allow_nan=False, ensure_ascii=False).encode()  # half a surrogate pair can't be sent on
    except (ValueError, RecursionError) as error:
        yield Fault(place="body.conf", message=f"it is no strict JSON: {error}")
        return
    for name, value in conf.items():
        place = f"body.conf.{name}"
        if name not in params:
            yield Fault(place=place, message=f"the DAG has no such param; it has {', '.join(params) or 'none'}")
            continue
        schema = params[name].get("schema") or {}
        for error in Draft202012Validator(schema, format_checker=_FORMATS).iter_errors(value):  # as Airflow does
            yield Fault(place=".".join((place, *map(str, error.absolute_path))), message=error.message[:300])
        if name == SPARK_MASTER and value and not _may_be_master(value, spark_masters):
            yield Fault(
                place=place,
                message="local[…] with up to 99 cores or one of LAKEHOUSE_API__SPARK_MASTERS, and nowhere else",
            )


def _may_be_master(value: Any, spark_masters: Collection[str]) -> bool:
    return isinstance(value, str) and bool(_is_local_master(value) or value in spark_masters)
