"""What the parts of the document share: bars, tables and numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

UNMEASURED: Final = "not measured yet"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a ratio is held against: `most` of a ratio is good, or `least` when `upwards`."""

    key: str
    what: str
    must: float | None
    aim: float | None
    upwards: bool = False

    def verdict(self, value: float | None) -> str:
        """In words, which bars a value meets."""
        if value is None:
            return UNMEASURED
        meets = (lambda bar: value >= bar) if self.upwards else (lambda bar: value <= bar)
        if self.aim is not None and meets(self.aim):
            return "aim met"
        if self.must is None:
            return "aim missed"
        return "must met" if meets(self.must) else "**missed**"


def bars(held: Sequence[Bar], ratios: Mapping[str, float | None]) -> str:
    """The table of bars with what was measured."""
    rows = [
        (
            f"`{bar.key}`",
            bar.what,
            _bound(bar.must, bar.upwards),
            _bound(bar.aim, bar.upwards),
            number(value := ratios[bar.key]),
            bar.verdict(value),
        )
        for bar in held
    ]
    return table(("key", "what", "must", "aim", "measured", ""), rows)


def measured(section: Mapping[str, Any]) -> str:
    """When, of which commit and on what a section was measured."""
    machine = section["machine"]
    airflow = ", beside Airflow" if section["airflow_running"] else ""
    return (
        f"measured {section['measured_at']} at commit `{section['commit']}`{airflow}, on {machine['cores']} cores "
        f"({machine['cpu']}), {machine['memory_bytes'] / 2**30:.0f} GiB"
    )


def number(value: float | None) -> str:
    """Three digits below 1, else two after the point."""
    if value is None:
        return "–"  # noqa: RUF001 - a person's dash
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    lines = [columns, ["---" for _ in columns], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bound(value: float | None, upwards: bool) -> str:
    return "" if value is None else f"{'≥' if upwards else '≤'} {value:.3g}"
