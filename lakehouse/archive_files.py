"""The files of the archive: written, read back, described by manifests, and compared with those."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date

import pyarrow as pa
from pyarrow import fs, parquet

from lakehouse.adapters import s3
from lakehouse.adapters.archive import HeldFile
from lakehouse.archive_parts import ArchivedFile, ContentHash, Manifest, PartName
from lakehouse.errors import TerminalError
from lakehouse.ingest_task import conform, file_options
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS

_HELD_BYTES = 64 << 20
"""Rows that are sorted and written together, in memory; about three times as much is needed."""
_ROWS_PER_GROUP = 100_000


class PartFiles:
    """The files of an environment's archive, and those of the live table that a restore writes.

    Args:
        settings: where the buckets are.
        count: called with the rows of each batch that was written or read back.
    """

    def __init__(self, settings: Settings, count: Callable[[int], None]) -> None:
        self._store: fs.FileSystem = s3.filesystem(settings.s3)
        self._manifests = f"s3://{settings.s3.archive_bucket}/{settings.prefix}manifests/{USER_ACTIONS.identifier}"
        self._count = count

    def write(
        self, batches: Iterable[pa.RecordBatch], directory: str, schema: pa.Schema, rows_per_file: int, prefix: str = ""
    ) -> list[str]:
        """Write rows as Parquet files of about so many rows, sorted in pieces of `_HELD_BYTES`; returns their paths."""
        paths: list[str] = []
        pieces = _pieces(batches, schema)
        piece = next(pieces, None)
        while piece is not None:
            paths.append(f"{directory}/{prefix}{uuid.uuid4().hex}.parquet")
            with s3.errors(), self._store.open_output_stream(s3.key_of(paths[-1])) as stream:
                options = file_options(schema.names)
                writer, rows = parquet.ParquetWriter(stream, piece.schema, **options), 0
                with writer:
                    while piece is not None and rows < rows_per_file:
                        writer.write_table(piece, row_group_size=_ROWS_PER_GROUP)
                        rows += piece.num_rows
                        self._count(piece.num_rows)
                        piece = next(pieces, None)
        return paths

    def read_back(
        self, paths: Iterable[str], columns: Sequence[tuple[str, str]]
    ) -> tuple[tuple[ArchivedFile, ...], ContentHash]:
        """Read files to their last row, one after the other; returns what each is, and the hash of all rows."""
        content = ContentHash([column for column, _ in columns])
        files: list[ArchivedFile] = []
        for path in paths:
            before = content.rows
            for batch in self.rows([path], columns):
                content.add(batch)
                self._count(batch.num_rows)
            files.append(ArchivedFile(path, content.rows - before, *s3.bytes_of(self._store, path)))
        return tuple(files), content

    def rows(self, paths: Iterable[str], columns: Sequence[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
        """Read the columns of files, a row group at a time."""
        names = [column for column, _ in columns]
        for path in paths:
            with s3.errors(), self._store.open_input_file(s3.key_of(path)) as stream:
                yield from parquet.ParquetFile(stream).iter_batches(columns=names)

    def save(self, manifest: Manifest) -> None:
        """Write the manifest of a part beside the others."""
        path = self._manifest_path(manifest.name, manifest.date)
        with s3.errors(), self._store.open_output_stream(s3.key_of(path)) as stream:
            stream.write(manifest.to_json())

    def manifest(self, name: PartName, day: date) -> Manifest:
        """Read the manifest of a part.

        Raises:
            TerminalError: there is none, or it can't be read.
        """
        path = self._manifest_path(name, day)
        try:
            with s3.errors(), self._store.open_input_stream(s3.key_of(path)) as stream:
                return Manifest.from_json(stream.read())
        except ValueError as error:
            raise TerminalError(f"{path} is no manifest ({error}): put it back from a copy") from error

    def remove(self, paths: Iterable[str]) -> None:
        """Delete files that surely nobody names."""
        for path in paths:
            with s3.errors():
                self._store.delete_file(s3.key_of(path))

    def remove_manifest(self, name: PartName, day: date) -> None:
        """Delete the manifest of a part; one that is gone already is no error."""
        path = s3.key_of(self._manifest_path(name, day))
        with s3.errors():
            if self._store.get_file_info(path).type is fs.FileType.File:
                self._store.delete_file(path)

    def is_unchanged(self, file: ArchivedFile) -> bool:
        """Whether a file has the bytes that it was archived with."""
        return s3.bytes_of(self._store, file.path) == (file.size_bytes, file.sha256)

    def compare(self, name: PartName, day: date, registered: Sequence[HeldFile]) -> Iterator[tuple[str, str]]:
        """Compare a part with its manifest, file by file; yields where something differs, and what.

        Args:
            name: of the part.
            day: its date.
            registered: its files in the archive table.
        """
        part = str(name)
        try:
            manifest = self.manifest(name, day)
        except TerminalError as error:
            yield part, str(error)
            return
        yield from _registered_otherwise(manifest, registered)
        content, is_whole = ContentHash([column for column, _ in manifest.columns]), True
        for known in manifest.files:
            try:
                size_bytes, digest = s3.bytes_of(self._store, known.path)
            except TerminalError as error:
                yield known.path, str(error)
                is_whole = False
                continue
            if (size_bytes, digest) != (known.size_bytes, known.sha256):
                now = f"{size_bytes} bytes with SHA-256 {digest} in the bucket"
                yield known.path, f"{now}, {known.size_bytes} bytes with {known.sha256} in the manifest"
                is_whole = False
                continue
            for batch in self.rows([known.path], manifest.columns):
                content.add(batch)
                self._count(batch.num_rows)
        if is_whole and (content.rows, content.hexdigest()) != (manifest.rows, manifest.content_sha256):
            now = f"{content.rows} rows with content hash {content.hexdigest()} in the bucket"
            yield part, f"{now}, {manifest.rows} rows with {manifest.content_sha256} in the manifest"

    def _manifest_path(self, name: PartName, day: date) -> str:
        return f"{self._manifests}/event_date={day.isoformat()}/{name}.json"


def _registered_otherwise(manifest: Manifest, registered: Sequence[HeldFile]) -> Iterator[tuple[str, str]]:
    """Where the archive table and the manifest disagree on the files of a part, and how."""
    said = {file.path: file for file in manifest.files}
    for file in registered:
        known = said.pop(file.path, None)
        if known is None:
            yield file.path, "the archive table has it, the manifest does not"
        elif (known.rows, known.size_bytes) != (file.rows, file.size_bytes):
            now = f"{file.rows} rows and {file.size_bytes} bytes in the archive table"
            yield file.path, f"{now}, {known.rows} and {known.size_bytes} in the manifest"
    for path in said:
        yield path, "the manifest has it, the archive table does not"


def _pieces(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows as a table of this schema has them, sorted within each piece of about `_HELD_BYTES`."""
    order = [(column, "ascending") for column in USER_ACTIONS.sort_by]
    held: list[pa.Table] = []
    held_bytes = 0
    for batch in batches:
        if batch.num_rows:
            rows = conform(pa.Table.from_batches([batch]), schema)
            # A column that a file had as a dictionary must be laid out like the others.
            held.append(rows.cast(schema))
            held_bytes += rows.nbytes
        if held_bytes >= _HELD_BYTES:
            yield pa.concat_tables(held).sort_by(order)
            held, held_bytes = [], 0
    if held:
        yield pa.concat_tables(held).sort_by(order)
