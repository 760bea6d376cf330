"""What is planned until people read what was built, and that they read one version whole after each step."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.adapters.marts import MartState, MartView, Version, ViewColumn
from lakehouse.publish import Mart, MoveTag, PutView, RemoveTable, Step, plan_publication

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
MART = Mart("fct_days", "Days.", {"day": "The day."})
TWO = (("day", "date"), ("n", "long"))
THREE = (*TWO, ("note", "string"))


def version(snapshot_id: int, columns: tuple[tuple[str, str], ...] = TWO) -> Version:
    return Version(snapshot_id, columns, NOON)


def state(
    built: Version | None = None,
    published: Version | None = None,
    view: MartView | None = None,
    *,
    is_table: bool = False,
) -> MartState:
    return MartState(
        name="fct_days",
        built=built,
        published=published,
        published_at=NOON if published else None,
        waits_since=None,
        view=view,
        is_table=is_table,
    )


def view(as_of: str = "'published'", columns: tuple[tuple[str, str], ...] = TWO) -> MartView:
    listed = ",\n".join(f'    "{name}"' for name, _ in columns)
    return MartView(
        sql=f'SELECT\n{listed}\nFROM "lake"."build"."fct_days" FOR VERSION AS OF {as_of}',
        columns=tuple(ViewColumn(name, kind, MART.columns.get(name)) for name, kind in columns),
        comment="Days.",
        owner="transform",
    )


def plan(now: MartState) -> list[Step]:
    return plan_publication(MART, now, namespace="lake.build", owner="transform")


def test_the_first_publication_tags_before_there_is_a_view_on_the_tag() -> None:
    assert plan(state(version(1))) == [MoveTag("fct_days", 1, None), PutView("fct_days", view(), 1)]


def test_when_the_columns_stay_only_the_tag_moves() -> None:
    assert plan(state(version(2), version(1), view())) == [MoveTag("fct_days", 2, 1)]


def test_nothing_is_left_to_do_when_readers_see_what_is_built() -> None:
    assert plan(state(version(1), version(1), view())) == []


def test_a_mart_without_a_table_is_left_alone() -> None:
    assert plan(state()) == []


@pytest.mark.parametrize("columns", [THREE, TWO[:1], (("day", "date"), ("n", "string")), TWO[::-1]])
def test_when_the_columns_change_the_view_turns_to_the_new_version_before_the_tag_moves(
    columns: tuple[tuple[str, str], ...],
) -> None:
    assert plan(state(version(2, columns), version(1), view())) == [
        PutView("fct_days", view("2", columns), 2),
        MoveTag("fct_days", 2, 1),
        PutView("fct_days", view(columns=columns), 2),
    ]


def test_a_new_description_alone_replaces_the_view_and_nothing_else() -> None:
    undescribed = replace(view(), comment="", columns=tuple(replace(c, doc=None) for c in view().columns))
    assert plan(state(version(1), version(1), undescribed)) == [PutView("fct_days", view(), 1)]


def test_a_view_that_somebody_changed_by_hand_is_put_right() -> None:
    assert plan(state(version(1), version(1), replace(view(), sql="SELECT 1"))) == [PutView("fct_days", view(), 1)]


def test_a_table_of_older_versions_goes_once_what_replaces_it_is_tagged() -> None:
    assert plan(state(version(1), is_table=True)) == [
        MoveTag("fct_days", 1, None),
        RemoveTable("fct_days"),
        PutView("fct_days", view(), 1),
    ]


class Catalog:
    """What a catalog does with a step, and what a reader gets from it."""

    def __init__(self) -> None:
        self.versions: dict[int, tuple[tuple[str, str], ...]] = {}
        self.tag: int | None = None
        self.view: MartView | None = None

    def state(self) -> MartState:
        built = max(self.versions)
        tagged = version(self.tag, self.versions[self.tag]) if self.tag else None
        return state(version(built, self.versions[built]), tagged, self.view)

    def take(self, step: Step) -> None:
        match step:
            case MoveTag():
                assert step.expected == self.tag
                self.tag = step.snapshot_id
            case PutView():
                self.view = step.view
            case RemoveTable():
                raise AssertionError("there is none")

    def seen(self) -> int | None:
        """The version that a reader gets; fails where Trino would answer with an error or leave out a column."""
        if self.view is None:
            return None
        as_of = self.view.sql.rpartition(" ")[2]
        read = self.tag if as_of == "'published'" else int(as_of)
        assert read
        assert tuple((column.name, column.type) for column in self.view.columns) == self.versions[read]
        return read


COLUMN = st.tuples(st.sampled_from(["day", "n", "note"]), st.sampled_from(["date", "long"]))
COLUMNS = st.lists(COLUMN, min_size=1, unique_by=lambda column: column[0]).map(tuple)


@given(builds=st.lists(st.tuples(COLUMNS, st.integers(0, 3)), min_size=1, max_size=5))
def test_readers_see_one_version_whole_wherever_publications_are_killed(
    builds: list[tuple[tuple[tuple[str, str], ...], int]],
) -> None:
    catalog = Catalog()
    for number, (columns, steps_until_kill) in enumerate(builds, start=1):
        before = catalog.seen()
        catalog.versions[number] = columns
        for step in plan(catalog.state())[:steps_until_kill]:
            catalog.take(step)
            assert catalog.seen() in {before, number}
    for step in plan(catalog.state()):
        catalog.take(step)
        catalog.seen()
    assert catalog.seen() == len(builds)
    assert plan(catalog.state()) == []
