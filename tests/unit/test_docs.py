"""The documentation tells the truth: pages that are made equal the code, and what they name exists."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from lakehouse.ads.contract import Reason as AdReason
from lakehouse.cli import reference
from lakehouse.cli.main import app
from lakehouse.csv_lines import CsvReason
from lakehouse.events import Reason, ReasonCode
from lakehouse.file_contract import FileReason
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack.servers import servers

TOP_LEVEL = {
    *(".ci", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile"),
    *("README.md", "bench", "compose", "dags", "data", "dbt", "docs", "lakehouse", "pyproject.toml", "requirements"),
    *("spark", "tests", "trino"),
}
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))

# In pieces, so that this file holds none of them.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("repo1", "maven", "org"),
        ("repo", "maven", "apache", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("registry", "npmjs", "org"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("deb", "debian", "org"),
    )
]
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:root\b|(?:home|work|Users)/\w)")
SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[0-9A-Za-z]{36}"
    r"|\bxox[abpr]-[0-9A-Za-z-]{10}"
    r"|(?i:secret|password|passwd|token|api_?key)[\"']?\s*[:=]\s*[\"']?(?=[A-Za-z0-9+/_-]*[0-9])[A-Za-z0-9+/_-]{20,}"
)


def tracked_files() -> list[Path]:
    """What git holds or would add: everything that is not ignored."""
    command = ["git", "-c", f"safe.directory={PROJECT_ROOT}", "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, check=True).stdout.decode()
    return [path for name in sorted(set(listed.split("\0")) - {""}) if (path := PROJECT_ROOT / name).is_file()]


PAGES = [path for path in tracked_files() if path.suffix == ".md"]


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT_ROOT))


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_lines(text: str) -> Iterator[list[str]]:
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def lakehouse_commands(text: str) -> Iterator[list[str]]:
    """Each `lakehouse …` in a code block or in backticks."""
    yield from (words[1:] for words in shell_lines(text) if words[0].endswith("/lakehouse"))
    for code in re.findall(r"`(?:\.venv/bin/)?lakehouse ([^`\n]+)`", text):
        yield [word for word in shlex.split(code) if word != "…"]


def unknown_part(words: list[str]) -> str | None:
    """The first word that the command line does not know; None when it knows all."""
    command = typer.main.get_command(app)
    path = "lakehouse"
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"{path} {words[0]}"
        command, path, words = command.commands[words[0]], f"{path} {words[0]}", words[1:]
    if command.context_settings.get("ignore_unknown_options"):  # the rest is for another program
        return None
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return next((f"{path} {word}" for word in words if word.startswith("-") and word not in known), None)


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    assert (reference.DOCS / name).read_text() == reference.PAGES[name](), "run `make reference`"


def test_every_make_target_is_documented() -> None:
    text = "".join((PROJECT_ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    assert [target for target in sorted(MAKE_TARGETS) if f"`make {target}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = {words[1] for words in shell_lines(text) if words[0] == "make"} | set(re.findall(r"`make ([a-z-]+)", text))
    assert named - MAKE_TARGETS == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_lakehouse_command_that_a_page_names_exists(page: Path) -> None:
    assert [unknown for words in lakehouse_commands(page.read_text()) if (unknown := unknown_part(words))] == []


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert unknown_part(["stack", "explode"]) == "lakehouse stack explode"
    assert unknown_part(["stack", "logs", "trino", "--loud"]) == "lakehouse stack logs --loud"
    assert unknown_part(["stack", "logs", "trino", "-f"]) is None


def test_the_programs_in_code_blocks_come_with_the_environment() -> None:
    for page in PAGES:
        for program, *_ in shell_lines(page.read_text()):
            if program not in {"make", "curl", "export"}:
                assert any(PROJECT_ROOT.glob(program)), f"{name_of(page)} calls {program}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(linked.read_text()), f"{target} has no such heading"


def test_the_readme_shows_what_the_sample_day_gives() -> None:
    readme, counted = (PROJECT_ROOT / "README.md").read_text(), (PROJECT_ROOT / "data" / "README.md").read_text()
    assert "4,051 messages, of which 4,006 are published and 45 quarantined" in counted
    assert "4,051 messages in Kafka = 4,006 events + 45 in quarantine\n" in readme
    assert "12 records of CSV files = 9 events + 3 in quarantine\n4,015 events in the daily aggregate\n" in readme
    header = re.search(r"^\| event date \| (.*) \|$", counted, re.MULTILINE)
    assert header
    shown = re.findall(r"^ (\d{4}-\d\d-\d\d) \| (\w+) +\| +(\d+) \|", readme, re.MULTILINE)
    assert shown
    for day, event_name, events in shown:
        row = re.search(rf"^\| {day} \| (.*) \|$", counted, re.MULTILINE)
        assert row
        assert dict(zip(header[1].split(" | "), row[1].split(" | "), strict=True))[event_name] == events


@pytest.mark.parametrize(
    ("page", "reasons"),
    [
        ("event-contract.md", Reason),
        ("csv-drop.md", CsvReason),
        ("file-notifications.md", FileReason),
        ("ads.md", AdReason),
    ],
)
def test_every_reason_is_documented_as_in_the_code(page: str, reasons: type[ReasonCode]) -> None:
    text = (PROJECT_ROOT / "docs" / page).read_text()
    rows = {row.partition("`")[0]: row for row in re.findall(r"^\| `(.*) \|$", text, re.MULTILINE)}
    assert [reason for reason in reasons if reason.doc not in rows.get(reason, "")] == []


def test_every_dag_and_server_is_documented() -> None:
    prose = "".join(
        (PROJECT_ROOT / name).read_text() for name in ("README.md", "docs/architecture.md", "docs/operations.md")
    )
    dags = re.findall(r'dag_id="([^"]+)"', "".join(path.read_text() for path in (PROJECT_ROOT / "dags").glob("*.py")))
    assert dags
    assert [name for name in (*dags, *servers(Settings())) if f"`{name}`" not in prose] == []


@pytest.mark.parametrize("path", tracked_files(), ids=name_of)
def test_no_file_names_a_registry_a_path_of_a_machine_or_a_secret(path: Path) -> None:
    text = path.read_text(errors="replace")
    assert [host for host in REGISTRIES if host in text] == []
    assert MACHINE_PATH.findall(text) == []
    assert SECRET.findall(text) == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, "cd /" + "root/project"),
        (MACHINE_PATH, '"/' + 'home/me/x"'),
        (SECRET, "PASS" + "WORD=abcdefghijklmnopqrst1"),
        (SECRET, "-----BEGIN RSA " + "PRIVATE KEY-----"),
    ],
)
def test_what_must_not_be_in_a_file_is_recognised(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


def test_the_top_level_is_the_one_the_readme_leads_through() -> None:
    assert {path.relative_to(PROJECT_ROOT).parts[0] for path in tracked_files()} == TOP_LEVEL
    assert (PROJECT_ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_no_folder_or_file_hides_a_library() -> None:
    assert [name for name in ("trino", "dbt", "spark", "dags") if (PROJECT_ROOT / name / "__init__.py").exists()] == []
    libraries = {*importlib.metadata.packages_distributions(), *sys.stdlib_module_names}
    assert [path.name for path in (PROJECT_ROOT / "dags").glob("*.py") if path.stem in libraries] == []
