"""`make sbom`: every package and every jar with its package URL and its SHA-256, as
CycloneDX 1.6 in build/sbom.cdx.json.

What is packed inside a jar or a wheel under other names (shaded) is not listed.
"""

import importlib.util
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from helpers import errors, files, settings
from helpers.java import artefacts

LOCKS = (
    "requirements.txt",
    "requirements-uv.txt",
    "requirements-singa.txt",
    "requirements-build.txt",
    "requirements-connect.txt",
)
PIN = re.compile(r"^([\w.-]+)==([^\s;]+)(.*?)(?=^[\w.-]+==|\Z)", re.M | re.S)
# Groups of PySpark's jars that do not say theirs, by the beginning of their names.
GROUPS = {
    "RoaringBitmap": "org.roaringbitmap",
    "algebra_": "org.typelevel",
    "breeze": "org.scalanlp",
    "cats-kernel": "org.typelevel",
    "chill": "com.twitter",
    "derby": "org.apache.derby",
    "ivy": "org.apache.ivy",
    "jackson-module-scala": "com.fasterxml.jackson.module",
    "jdo-api": "javax.jdo",
    "json4s": "org.json4s",
    "jta": "javax.transaction",
    "libfb303": "org.apache.thrift",
    "libthrift": "org.apache.thrift",
    "objenesis": "org.objenesis",
    "rocksdbjni": "org.rocksdb",
    "scala-parser-combinators": "org.scala-lang.modules",
    "scala-xml": "org.scala-lang.modules",
    "scala-": "org.scala-lang",
    "snappy-java": "org.xerial.snappy",
    "spire": "org.typelevel",
    "stax-api": "stax",
    "tink": "com.google.crypto.tink",
    "transaction-api": "javax.transaction",
    "xz": "org.tukaani",
    "zstd-jni": "com.github.luben",
}
PROPERTIES = re.compile(r"META-INF/maven/([^/]+)/([^/]+)/pom\.properties")


class SbomError(errors.WorkshopError):
    """Something is installed of which nobody knows what it is."""


@dataclass(frozen=True, order=True)
class Part:
    """A package or a jar: `name` is a package's, or group:artefact; `sums` are the
    SHA-256 of the files that are accepted for it; `of` says what brings it.
    """

    ecosystem: str  # PyPI or Maven, as OSV names them
    name: str
    version: str
    sums: tuple[str, ...]
    of: str

    def url(self) -> PackageURL:
        """Its package URL, which is unique but for a jar's classifier."""
        if self.ecosystem == "PyPI":
            return PackageURL("pypi", None, self.name, self.version)
        group, artefact = self.name.split(":")
        return PackageURL("maven", group, artefact, self.version)


def packages() -> list[Part]:
    """Every locked Python package, for all platforms."""
    return [
        Part("PyPI", name, version, tuple(re.findall(r"sha256:(\w{64})", rest)), lock)
        for lock in LOCKS
        for name, version, rest in PIN.findall((settings.ROOT / lock).read_text())
    ]


def maven_jars() -> list[Part]:
    """The engines' jars under jvm/, and Maven's plugins with what they load."""
    modules: dict[str, list[str]] = {}
    for module in artefacts.modules():
        for sha in files.read_sums(settings.JVM / module / "SHA256SUMS").values():
            modules.setdefault(sha, []).append(f"jvm/{module}")
    return [
        Part(
            "Maven",
            f"{jar.group}:{jar.artefact}",
            jar.version,
            (jar.sha256,),
            " ".join(modules.get(jar.sha256, ["maven"])),
        )
        for jar in artefacts.recorded()
    ]


def spark_jars() -> list[Part]:
    """The jars inside the installed PySpark. Raises SbomError for one that does not
    say whose it is.
    """
    package = importlib.util.find_spec("pyspark")
    folder = Path(str(package and package.origin)).parent / "jars"
    known = {jar.artefact: jar.group for jar in artefacts.recorded()}
    parts = []
    for jar in sorted(folder.glob("*.jar")):
        with zipfile.ZipFile(jar) as archive:
            inside = filter(None, map(PROPERTIES.fullmatch, archive.namelist()))
            said = [own for own in inside if jar.stem.startswith(f"{own[2]}-")]
        group: str | None
        if said:
            group, artefact = max(said, key=lambda own: len(own[2])).groups()
        else:
            artefact = re.split(r"-(?=\d)", jar.stem, maxsplit=1)[0]
            begins = [
                name for start, name in GROUPS.items() if jar.name.startswith(start)
            ]
            group = next(filter(None, [known.get(artefact), *begins]), None)
        version = jar.stem.removeprefix(f"{artefact}-")
        if not group:
            raise SbomError(
                f"PySpark brings {jar.name}, and nobody knows its group: give it a line"
                " in tools/sbom.py."
            )
        name = f"{group}:{artefact}"
        parts.append(Part("Maven", name, version, (files.sha256(jar),), "pyspark"))
    if not parts:
        raise SbomError("PySpark's jars are not there: run `make setup`.")
    return parts


def parts() -> list[Part]:
    """All of them, each once: what brings the same file twice is named together."""
    merged: dict[Part, list[str]] = {}
    for part in [*packages(), *maven_jars(), *spark_jars()]:
        merged.setdefault(replace(part, of=""), []).append(part.of)
    return sorted(replace(one, of=" ".join(sorted(of))) for one, of in merged.items())


def document(listed: list[Part]) -> str:
    """The parts as CycloneDX 1.6 JSON."""
    bom = Bom()
    bom.metadata.component = Component(
        name="apache-ml-workshop", type=ComponentType.APPLICATION
    )
    for part in listed:
        sums = [HashType(alg=HashAlgorithm.SHA_256, content=sha) for sha in part.sums]
        bom.components.add(
            Component(
                name=part.url().name,
                group=part.url().namespace,
                version=part.version,
                type=ComponentType.LIBRARY,
                purl=part.url(),
                bom_ref=f"{part.url()}#{part.sums[0][:12]}",
                hashes=sums,
                properties=[Property(name="workshop:of", value=part.of)],
            )
        )
    bom.register_dependency(bom.metadata.component, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def main() -> None:
    listed = parts()
    target = settings.build_dir() / "sbom.cdx.json"
    files.write_text(target, document(listed) + "\n")
    count = sum(part.ecosystem == "Maven" for part in listed)
    print(f"{len(listed) - count} packages and {count} jars: {target}")


if __name__ == "__main__":
    errors.run(main)
