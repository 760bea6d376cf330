"""The Parquet files of the archive: written from a stream, read back, and hashed on both ways."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs, parquet

from lakehouse.adapters import s3
from lakehouse.ingest_task import file_options
from lakehouse.settings import Settings

ROWS_PER_GROUP: Final = 50_000
"""Rows of a row group, which are in memory together, and over which each piece of the hash is made."""

_Item = TypeVar("_Item")


class ContentDigest:
    """A hash of rows in their order: the SHA-256 of the digests of their pieces, one piece after the other.

    A piece is what a row group holds. Its digest is over the columns in order: for each, which values are null, and
    then times as microseconds, dates as days, integers as they are, in 64 bits, or of texts the lengths and then the
    bytes. The events' archive has another one, `lakehouse.archive_parts.ContentHash`, which any order of rows leaves as
    it is and which costs ten times as much.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.rows = 0

    def add(self, piece: pa.Table) -> None:
        """Take in the next piece."""
        digest = hashlib.sha256()
        for column in piece.columns:
            for content in _contents(column.combine_chunks()):
                digest.update(content)
        self._digest.update(digest.digest())
        self.rows += piece.num_rows

    def hexdigest(self) -> str:
        """The hash of all pieces so far."""
        return self._digest.hexdigest()


class ArchiveFiles:
    """The files of an environment's archive.

    Args:
        settings: where they are.
        count: called with the rows of each piece that was written or read back.

    Raises:
        ServerUnavailableError: the object store failed.
        TerminalError: it does not have a file.
    """

    def __init__(self, settings: Settings, count: Callable[[int], None] | None = None) -> None:
        self._store: fs.FileSystem = s3.filesystem(settings.s3)
        self._rows_per_file = settings.ingest.rows_per_file
        self._count = count or _nothing

    def write(
        self, batches: Iterable[pa.RecordBatch], name: Callable[[int], str], schema: pa.Schema
    ) -> tuple[list[str], ContentDigest]:
        """Write rows as they come, a row group in memory; returns the paths and the hash of what was written.

        Args:
            batches: the rows.
            name: the path of the file of this number, counted from 1.
            schema: of the files, with field ids.
        """
        digest = ContentDigest()
        paths: list[str] = []
        pieces = ahead(_pieces(batches, schema))
        piece = next(pieces, None)
        while piece is not None:
            paths.append(name(len(paths) + 1))
            with s3.errors(), self._store.open_output_stream(s3.key_of(paths[-1])) as stream:
                writer, rows = parquet.ParquetWriter(stream, schema, **_options(schema)), 0
                with writer:
                    while piece is not None and rows < self._rows_per_file:
                        digest.add(piece)
                        writer.write_table(piece, row_group_size=ROWS_PER_GROUP)
                        rows += piece.num_rows
                        self._count(piece.num_rows)
                        piece = next(pieces, None)
        return paths, digest

    def read(
        self, paths: Iterable[str], columns: Sequence[str] | None = None, digest: ContentDigest | None = None
    ) -> Iterator[pa.Table]:
        """Read files a row group at a time, and hash them on the way."""
        for path in paths:
            with s3.errors(), self._store.open_input_file(s3.key_of(path)) as stream:
                file = parquet.ParquetFile(stream)
                for number in range(file.num_row_groups):
                    piece = file.read_row_group(number, columns=list(columns) if columns else None)
                    if digest is not None:
                        digest.add(piece)
                        self._count(piece.num_rows)
                    yield piece

    def remove(self, directory: str, name: str) -> None:
        """Delete the files of a directory whose names begin so; surely nobody names them."""
        selector = fs.FileSelector(s3.key_of(directory), allow_not_found=True)
        with s3.errors():
            for info in self._store.get_file_info(selector):
                if info.type is fs.FileType.File and info.base_name.startswith(name):
                    self._store.delete_file(info.path)


def ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Take each item in a thread while the one before is worked with."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # pyright: ignore[reportReturnType]


def _nothing(_: int) -> None:
    return None


def _options(schema: pa.Schema) -> dict[str, Any]:
    repeated = {"shown_date", "campaign", "ad", "sku", "arrived_at"}  # of the others a dictionary only costs
    options = file_options(schema.names)
    return options | {"use_dictionary": [name for name in options["use_dictionary"] if name in repeated]}


def _pieces(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Cut a stream into pieces of `ROWS_PER_GROUP`; only the last one is smaller."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        while rows >= ROWS_PER_GROUP:
            whole = pa.Table.from_batches(held)
            yield _as(whole.slice(0, ROWS_PER_GROUP), schema)
            held = whole.slice(ROWS_PER_GROUP).to_batches()
            rows -= ROWS_PER_GROUP
    if rows:
        yield _as(pa.Table.from_batches(held), schema)


def _as(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table([rows.column(field.name).cast(field.type) for field in schema], schema=schema)


def _contents(column: pa.Array) -> Iterator[bytes | memoryview | pa.Buffer]:
    yield np.packbits(column.is_valid().to_numpy(zero_copy_only=False)).tobytes()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.fill_null(column, "").cast(pa.large_string())
        yield pc.call_function("binary_length", [text]).to_numpy().tobytes()
        _, offsets, content = text.buffers()
        bounds = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
        if content is not None:
            yield content.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))
        return
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64())
    elif pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    yield pc.fill_null(column.cast(pa.int64()), 0).to_numpy().tobytes()
