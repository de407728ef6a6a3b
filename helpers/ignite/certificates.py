"""Certificates for a local cluster: an authority of its own, the nodes' keys, and a
client that checks both.
"""

import datetime as dt
import ipaddress
import secrets
import ssl
from pathlib import Path
from typing import Any

import pyignite.connection.connection as pyignite_connection
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pyignite.connection.ssl import create_ssl_context

VALID_DAYS = 30


def make(folder: Path, host: str = "localhost") -> str:
    """Write ca.pem (for Python), server.p12 and trust.p12 (for Java) for 127.0.0.1,
    localhost and `host`.

    The key files can be read by this user only. Returns the password of the two Java
    stores.
    """
    folder.mkdir(parents=True, mode=0o700)
    password = secrets.token_urlsafe(16)
    authority_key, key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    authority = (
        _builder("workshop authority", "workshop authority", authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    names = [
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        *map(x509.DNSName, sorted({"localhost", host} - {"127.0.0.1"})),
    ]
    certificate = (
        _builder("ignite", "workshop authority", key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(
                authority_key.public_key()
            ),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    locked = BestAvailableEncryption(password.encode())
    trusted = [pkcs12.PKCS12Certificate(authority, b"ca")]
    (folder / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    server = pkcs12.serialize_key_and_certificates(
        b"ignite", key, certificate, [authority], locked
    )
    (folder / "server.p12").write_bytes(server)
    (folder / "trust.p12").write_bytes(
        pkcs12.serialize_java_truststore(trusted, locked)
    )
    return password


def client_options(folder: Path) -> dict[str, object]:
    """pyignite's options for a connection that accepts only nodes whose certificate the
    authority has signed.
    """
    return {
        "use_ssl": True,
        "ssl_version": ssl.PROTOCOL_TLS_CLIENT,
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certfile": str(folder / "ca.pem"),
    }


class _NamedSocket(ssl.SSLSocket):
    """A TLS socket that also checks that the certificate is for the host it connects
    to.
    """

    def connect(self, address: Any) -> None:
        self.server_hostname = address[0]
        self.context.check_hostname = True
        super().connect(address)


def _wrap(sock: object, options: dict[str, object]) -> object:
    if not options.get("use_ssl"):
        return sock
    verify = options.get("ssl_cert_reqs") == ssl.CERT_REQUIRED
    context = create_ssl_context(options)
    if verify:
        context.check_hostname = False  # until the socket knows where it goes
        context.sslsocket_class = _NamedSocket
    return context.wrap_socket(sock)


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    name = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)])
        for each in (subject, issuer)
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(name[0])
        .issuer_name(name[1])
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=VALID_DAYS))
    )


# pyignite 0.6.1 never compares the host with the certificate: any certificate of the
# authority would do.
pyignite_connection.wrap = _wrap
