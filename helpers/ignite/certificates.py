"""Certificates that close a cluster: an authority of its own, and one certificate that
shows a node, or a client, to be a member.
"""

from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    pkcs12,
)

from helpers import files
from helpers.processes.folders import locked

# Java wants a password for its stores. It keeps no secret here: the same key lies
# beside them for Python and Node.js, and what protects all of them is that no other
# user may read the files. jvm/ignite/server.xml says it, too.
STORE_PASSWORD = "changeit"


def make(folder: Path, *hosts: str) -> None:
    """Make a new authority and a certificate of it for 127.0.0.1, localhost and `hosts`
    (names or addresses): `folder`, which must not exist, appears when it is complete.

    In PEM ca.pem (whom to trust) and member.pem (key and certificate), for Java
    trust.p12 and member.p12. Only this user can read them. The authority's key is
    forgotten, so nobody can sign another certificate.
    """
    authority = trustme.CA(path_length=0)
    member = authority.issue_cert(*sorted({"127.0.0.1", "localhost", *hosts}))
    ca = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    key = load_pem_private_key(member.private_key_pem.bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate(member.cert_chain_pems[0].bytes())
    lock = BestAvailableEncryption(STORE_PASSWORD.encode())
    contents = {
        "ca.pem": authority.cert_pem.bytes(),
        "member.pem": member.private_key_and_cert_chain_pem.bytes(),
        "trust.p12": pkcs12.serialize_java_truststore(
            [pkcs12.PKCS12Certificate(ca, b"ca")], lock
        ),
        "member.p12": pkcs12.serialize_key_and_certificates(
            b"member", key, certificate, [ca], lock
        ),
    }
    with files.atomic(folder) as unfinished:
        unfinished.mkdir(mode=0o700)
        for name, content in contents.items():
            (unfinished / name).touch(mode=0o600)
            (unfinished / name).write_bytes(content)


def share(folder: Path, *hosts: str) -> None:
    """Like `make`, for nodes that start at once: the first makes them, the others find
    them.
    """
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            make(folder, *hosts)


def for_jdbc(folder: Path) -> dict[str, str]:
    """Properties of a JDBC connection with the certificates of `folder`."""
    stores = {"ClientCertificate": "member.p12", "TrustCertificate": "trust.p12"}
    properties = {"ignite.jdbc.sslMode": "require"}
    for store, name in stores.items():
        start = f"ignite.jdbc.ssl{store}KeyStore"
        properties[f"{start}Url"] = str(folder / name)
        properties[f"{start}Type"] = "PKCS12"
        properties[f"{start}Password"] = STORE_PASSWORD
    return properties


def for_control(folder: Path) -> list[str]:
    """Options of the control utility with the certificates of `folder`."""
    options = []
    for store, name in (("key", "member.p12"), ("trust", "trust.p12")):
        options += [f"--{store}store", str(folder / name)]
        options += [f"--{store}store-type", "PKCS12"]
        options += [f"--{store}store-password", STORE_PASSWORD]
    return options
