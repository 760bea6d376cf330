"""The dashboard of what the tables are made of, and of what keeps them."""

from grafana_foundation_sdk.builders import dashboard

from compose.grafana.page import page
from compose.grafana.panels import Column, Query, lines, number, rows


def build() -> dashboard.Dashboard:
    """Lay the dashboard out."""
    of_table = '{table=~"$table"}'
    # As the rule of ArchiveStale: whose DAG ended well had nothing to take.
    nothing_due = (
        "label_replace(time() - max by (dag_id) (lakehouse_dag_last_success_timestamp_seconds) < 2 * 86400,"
        ' "archive", "$1", "dag_id", "archive_(.+)")'
    )
    return page(
        "Lakehouse: tables",
        "What the tables are made of, and what keeps them: maintenance, archives, backups, disk.",
        {
            "": [
                number(
                    "Disk free",
                    "min(lakehouse_disk_free_bytes / lakehouse_disk_size_bytes)",
                    says="Share of the volume that is free.",
                    unit="percentunit",
                    watched=["DiskFilling"],
                    span=6,
                ),
                number(
                    "Small files",
                    "sum(lakehouse_table_small_files)",
                    says="Files that the next run of maintenance would save, over all tables.",
                    span=6,
                ),
                number(
                    "Oldest archive",
                    f"max(max by (archive) (lakehouse_archive_age_seconds) unless on (archive) {nothing_due})",
                    says="Since an archive last got something, without those whose DAG said within two days "
                    "that all was taken.",
                    unit="s",
                    watched=["ArchiveStale"],
                    span=6,
                    empty="nothing is due",
                ),
                number(
                    "Oldest backup",
                    "max(lakehouse_backup_age_seconds)",
                    says="Since the backup that is longest ago ended well.",
                    unit="s",
                    watched=["BackupStale"],
                    span=6,
                    empty="nothing backed up yet",
                ),
                rows(
                    "Tables now",
                    "table",
                    Column("bytes", f"max by (table) (lakehouse_table_bytes{of_table})", "bytes"),
                    Column("files", f"max by (table) (lakehouse_table_files{of_table})"),
                    Column(
                        "overdue files",
                        f"max by (table) (lakehouse_table_overdue_files{of_table})",
                        watched=("SmallFileDebt",),
                    ),
                    Column(
                        "snapshots",
                        f"max by (table) (lakehouse_table_snapshots{of_table})",
                        watched=("SnapshotBloat",),
                    ),
                    Column("position moved", f"max by (table) (lakehouse_position_age_seconds{of_table})", "s"),
                    says="The newest figures. Empty where a table has no position of its own.",
                ),
            ],
            "Debt": [
                lines(
                    "Overdue files",
                    Query(f"lakehouse_table_overdue_files{of_table}", "{{table}}"),
                    says="Files that `maintain_tables` should have saved in the last day; 0 where it keeps up.",
                    watched=["SmallFileDebt"],
                    span=8,
                ),
                lines(
                    "Small files",
                    Query(f"lakehouse_table_small_files{of_table}", "{{table}}"),
                    says="Files that the next run of `maintain_tables` would save; it falls after each one.",
                    span=8,
                ),
                lines(
                    "Snapshots",
                    Query(f"lakehouse_table_snapshots{of_table}", "{{table}}"),
                    says="Maintenance expires old ones; a line that only rises: it does not run.",
                    watched=["SnapshotBloat"],
                    span=8,
                ),
            ],
            "Size": [
                lines(
                    "Bytes of the tables",
                    Query(f"lakehouse_table_bytes{of_table}", "{{table}}"),
                    says="Live data files, as the newest snapshot counts them.",
                    unit="bytes",
                ),
                lines(
                    "Bytes in the buckets",
                    Query("lakehouse_bucket_bytes", "{{bucket}}"),
                    says="Everything stored, old snapshots and orphan files included.",
                    unit="bytes",
                ),
                lines(
                    "Objects in the buckets",
                    Query("lakehouse_bucket_objects", "{{bucket}}"),
                    says="Many objects of few bytes: small files, or metadata that nobody expires.",
                ),
                lines(
                    "Age of archives and backups",
                    Query("lakehouse_archive_age_seconds", "archive {{archive}}"),
                    Query("lakehouse_backup_age_seconds", "backup {{backup}}"),
                    says="Since an archive last got something, and a backup was last stored and loaded.",
                    unit="s",
                    empty="nothing archived or backed up yet",
                ),
            ],
        },
        ("table", "lakehouse_table_files"),
    )
