"""The certificates that the stack makes: for this machine alone, renewed in time, and never without need."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from cryptography import x509

from lakehouse.stack import certificates

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_first_call_makes_an_authority_and_a_certificate_of_it_for_this_machine(tmp_path: Path) -> None:
    assert certificates.ensure(tmp_path / "tls", NOW) is True
    ca, server = read(tmp_path / "tls" / "ca.pem"), read(tmp_path / "tls" / "server.pem")
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [IPv4Address("127.0.0.1")]
    assert (ca.not_valid_after_utc - NOW).days == 3650
    assert (server.not_valid_after_utc - NOW).days == 397


def test_the_authority_can_sign_for_no_other_machine_and_no_other_authority(tmp_path: Path) -> None:
    certificates.ensure(tmp_path, NOW)
    extensions = read(tmp_path / "ca.pem").extensions
    constraints = extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [
        x509.DNSName("localhost"),
        x509.IPAddress(IPv4Network("127.0.0.0/8")),
    ]
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_only_the_owner_can_read_the_keys(tmp_path: Path) -> None:
    certificates.ensure(tmp_path, NOW)
    for name in ("ca.key", "server.pem"):
        assert b"PRIVATE KEY" in (tmp_path / name).read_bytes()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (tmp_path / "ca.pem").read_bytes()
    assert sorted(contents(tmp_path)) == ["ca.key", "ca.pem", "server.pem"]


def test_openssl_takes_both_files(tmp_path: Path) -> None:
    certificates.ensure(tmp_path, datetime.now(UTC))
    ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "server.pem")


@pytest.mark.parametrize("days", [0, 336])
def test_a_later_call_keeps_what_is_good(tmp_path: Path, days: int) -> None:
    certificates.ensure(tmp_path, NOW)
    before = contents(tmp_path)
    assert certificates.ensure(tmp_path, NOW + timedelta(days=days)) is False
    assert contents(tmp_path) == before


def test_a_certificate_near_its_end_is_renewed_and_the_authority_stays(tmp_path: Path) -> None:
    certificates.ensure(tmp_path, NOW)
    before = contents(tmp_path)
    later = NOW + timedelta(days=338)
    assert certificates.ensure(tmp_path, later) is True
    now = contents(tmp_path)
    assert {name for name in now if now[name] != before[name]} == {"server.pem"}
    assert (read(tmp_path / "server.pem").not_valid_after_utc - later).days == 397


def test_an_authority_that_would_end_before_its_certificate_is_made_anew(tmp_path: Path) -> None:
    certificates.ensure(tmp_path, NOW)
    before = contents(tmp_path)
    assert certificates.ensure(tmp_path, NOW + timedelta(days=3254)) is True
    assert all(content != before[name] for name, content in contents(tmp_path).items())
    read(tmp_path / "server.pem").verify_directly_issued_by(read(tmp_path / "ca.pem"))


@pytest.mark.parametrize("lost", ["ca.key", "ca.pem", "server.pem"])
@pytest.mark.parametrize("left", [None, b"", b"cut off"])
def test_a_file_that_is_gone_or_broken_is_made_anew_with_what_hangs_on_it(
    tmp_path: Path, lost: str, left: bytes | None
) -> None:
    certificates.ensure(tmp_path, NOW)
    (tmp_path / lost).unlink()
    if left is not None:
        (tmp_path / lost).write_bytes(left)
    assert certificates.ensure(tmp_path, NOW) is True
    read(tmp_path / "server.pem").verify_directly_issued_by(read(tmp_path / "ca.pem"))
    assert certificates.ensure(tmp_path, NOW) is False


def test_a_certificate_of_another_authority_is_replaced(tmp_path: Path) -> None:
    for place in ("one", "other"):
        certificates.ensure(tmp_path / place, NOW)
    (tmp_path / "one" / "server.pem").write_bytes((tmp_path / "other" / "server.pem").read_bytes())
    assert certificates.ensure(tmp_path / "one", NOW) is True
    read(tmp_path / "one" / "server.pem").verify_directly_issued_by(read(tmp_path / "one" / "ca.pem"))
