"""What is taken out of Trino's tarball, where most files are hard links into plugins that are left out."""

import io
import tarfile
from pathlib import Path

import pytest

from lakehouse.errors import StackError
from lakehouse.stack.trino import PLUGINS, extract, plan_extraction

TOP = "trino-server-476"


def test_a_link_into_a_plugin_that_is_left_out_takes_over_the_content() -> None:
    plan = plan_extraction(
        [
            (f"{TOP}/lib/guice.jar", None),
            (f"{TOP}/plugin/bigquery/shared.jar", None),
            (f"{TOP}/plugin/bigquery/guice.jar", f"{TOP}/lib/guice.jar"),
            (f"{TOP}/plugin/iceberg/shared.jar", f"{TOP}/plugin/bigquery/shared.jar"),
            (f"{TOP}/plugin/postgresql/shared.jar", f"{TOP}/plugin/bigquery/shared.jar"),
            (f"{TOP}/plugin/postgresql/guice.jar", f"{TOP}/lib/guice.jar"),
        ]
    )
    assert plan.files == {
        f"{TOP}/lib/guice.jar": "lib/guice.jar",
        f"{TOP}/plugin/bigquery/shared.jar": "plugin/iceberg/shared.jar",
    }
    assert plan.links == {
        "plugin/postgresql/shared.jar": "plugin/iceberg/shared.jar",
        "plugin/postgresql/guice.jar": "lib/guice.jar",
    }


def make_tarball(path: Path, plugins: frozenset[str]) -> None:
    with tarfile.open(path, "w:gz") as archive:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"{TOP}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        def link(name: str, target: str) -> None:
            member = tarfile.TarInfo(f"{TOP}/{name}")
            member.type, member.linkname = tarfile.LNKTYPE, f"{TOP}/{target}"
            archive.addfile(member)

        add("bin/launcher", b"x")
        add("lib/main.jar", b"main")
        add("plugin/accumulo/shared.jar", b"shared")
        for plugin in sorted(plugins):
            link(f"plugin/{plugin}/shared.jar", "plugin/accumulo/shared.jar")


def test_extracting_keeps_the_libraries_and_the_chosen_plugins(tmp_path: Path) -> None:
    tarball = tmp_path / "trino-server.tar.gz"
    make_tarball(tarball, PLUGINS)
    done: list[int] = []
    extract(tarball, tmp_path / "server", done.append)

    found = {str(p.relative_to(tmp_path / "server")): p.read_bytes() for p in (tmp_path / "server").rglob("*.jar")}
    assert found == {"lib/main.jar": b"main"} | {f"plugin/{name}/shared.jar": b"shared" for name in PLUGINS}
    assert not (tmp_path / "server" / "bin").exists()
    assert done == sorted(done)
    assert done[-1] == tarball.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server", "trino-server.tar.gz"]


def test_a_tarball_without_a_needed_plugin_leaves_nothing_behind(tmp_path: Path) -> None:
    tarball = tmp_path / "trino-server.tar.gz"
    make_tarball(tarball, PLUGINS - {"iceberg"})
    with pytest.raises(StackError, match="no plugin iceberg"):
        extract(tarball, tmp_path / "server")
    assert [path.name for path in tmp_path.iterdir()] == ["trino-server.tar.gz"]


def test_a_damaged_tarball_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    tarball = tmp_path / "trino-server.tar.gz"
    make_tarball(tarball, PLUGINS)
    tarball.write_bytes(tarball.read_bytes()[:100])
    with pytest.raises(StackError, match="damaged"):
        extract(tarball, tmp_path / "server")
    assert [path.name for path in tmp_path.iterdir()] == ["trino-server.tar.gz"]
