"""The certificates of one machine: an authority of its own, and with it the server certificate that Trino shows.

They hold for this machine only: the names are `localhost` and `127.0.0.1`, and the authority can sign for no others.
A client that is told to trust the authority (`ca.pem`) so trusts nothing else by it, even when its key gets lost.
"""

from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lakehouse.stack import private

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 397
RENEW_DAYS: Final = 60
"""A certificate that ends within this time is replaced at the next start of the stack."""

_NAMES: Final = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
_MAY_NAME: Final = x509.NameConstraints(
    permitted_subtrees=[x509.DNSName("localhost"), x509.IPAddress(IPv4Network("127.0.0.0/8"))], excluded_subtrees=None
)


def ensure(directory: Path, now: datetime) -> bool:
    """Make the authority and the server's certificate, or renew what is lacking, near its end or of another authority.

    The directory then holds `ca.pem`, which clients trust, `ca.key`, and `server.pem` with the server's key and
    certificate; both keys have mode 0600.

    Args:
        directory: made when it is not there.
        now: with its zone.

    Returns:
        Whether anything was written.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca = _read(directory / "ca.pem")
    key = _read_key(directory / "ca.key")
    wrote = False
    # An authority must outlive what it signs.
    if ca is None or key is None or ca.public_key() != key.public_key() or _ends_within(ca, now, SERVER_DAYS):
        ca, key = _make_authority(now)
        private.write(directory / "ca.key", _key_text(key))
        private.write(directory / "ca.pem", ca.public_bytes(serialization.Encoding.PEM), mode=0o644)
        wrote = True
    server = _read(directory / "server.pem")
    if wrote or server is None or not _is_signed_by(server, ca) or _ends_within(server, now, RENEW_DAYS):
        private.write(directory / "server.pem", _make_server(ca, key, now))
        wrote = True
    return wrote


def _make_authority(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lakehouse on this machine")])
    builder = (
        _builder(now, CA_DAYS)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_MAY_NAME, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()), key


def _make_server(ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, now: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(now, SERVER_DAYS)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_NAMES, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    chain = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (certificate, ca))
    return _key_text(key) + chain


def _builder(now: datetime, days: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # another clock on this machine, a container's, may be behind
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:  # noqa: BLE001 - the library has several for it; each means that it is not
        return False
    return True


def _ends_within(certificate: x509.Certificate, now: datetime, days: int) -> bool:
    return certificate.not_valid_after_utc < now + timedelta(days=days)


def _read(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _key_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
