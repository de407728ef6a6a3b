"""Java and its artefacts: which Java is taken, what is said when there is none, how
jars are fetched and verified.
"""

import http.server
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest
from watch import below, until

from helpers import files, settings
from helpers.java import artefacts, class_archives, jdk
from helpers.java.gateway import gateway
from helpers.java.jdk import JavaError
from helpers.spark import runtime
from tools import java_sums


def fake_java(folder, version):
    """A home whose `java -version` answers like a Java of that version; it is never
    asked anything else.
    """
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    java.chmod(java.stat().st_mode | stat.S_IEXEC)
    return folder


@pytest.fixture
def only_these(tmp_path, monkeypatch):
    """Pretend that just these Javas are installed."""

    def install(*versions):
        for version in versions:
            fake_java(tmp_path / "jdks" / version, version)
        monkeypatch.setattr(jdk, "JAVA_HOMES", (str(tmp_path / "jdks" / "*"),))
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


def test_the_real_java_is_17():
    done = subprocess.run([jdk.java(), "-version"], capture_output=True, text=True)
    assert 'version "17' in done.stderr


def test_java_17_is_found_among_others(only_these, tmp_path):
    only_these("11.0.2", "17.0.15", "21.0.1", "1.8.0_412")
    assert jdk.java_home() == tmp_path / "jdks" / "17.0.15"


def test_java_home_comes_first(only_these, tmp_path, monkeypatch):
    only_these("17.0.1")
    mine = fake_java(tmp_path / "mine", "17.0.9")
    monkeypatch.setenv("JAVA_HOME", str(mine))
    assert jdk.java_home() == mine


def test_java_reads_an_umlaut_in_a_locale_without(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    folder = tmp_path / "Jo's Übung"
    folder.mkdir()
    with gateway([jdk.java(), "-cp", folder], folder, "test") as (java, _):
        assert java.jvm.System.getProperty("user.dir") == str(folder)


@pytest.mark.parametrize("version", ["11.0.2", "21.0.1", "25"])
@pytest.mark.badinput
def test_only_another_java(only_these, version):
    only_these(version)
    with pytest.raises(
        JavaError,
        match=rf"only Java {version.split('.')[0]} in .* was found: install it",
    ):
        jdk.java_home()


@pytest.mark.badinput
def test_no_java_at_all(only_these):
    only_these()
    with pytest.raises(
        JavaError, match="Java 17 is needed, and none was found: install it"
    ):
        jdk.java_home()


def test_jars_are_complete_and_verified():
    assert artefacts.missing() == []
    for module in artefacts.modules():
        assert len(artefacts.jars(module)) == len(
            (settings.JVM / module / "SHA256SUMS").read_text().splitlines()
        )


@pytest.mark.badinput
@pytest.mark.security
def test_a_damaged_jar_is_noticed(tmp_path, monkeypatch):
    module = artefacts.modules()[0]
    shutil.copytree(settings.build_dir() / "java" / module, tmp_path / "java" / module)
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path))
    assert module not in artefacts.missing()
    jar = sorted((tmp_path / "java" / module).glob("*.jar"))[0]
    jar.write_bytes(jar.read_bytes()[:-1])
    assert module in artefacts.missing()


MAVEN = f"apache-maven-{artefacts.MAVEN_VERSION}"


@pytest.fixture
def own_maven(tmp_path, monkeypatch):
    """A build folder of its own, with the Maven that is here."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / MAVEN).symlink_to(artefacts.maven().parent.parent)
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "build"))
    return tmp_path


@pytest.mark.badinput
@pytest.mark.usefixtures("own_maven")
def test_no_network_at_first_set_up(tmp_path):
    """The real Maven, with an empty cache, sent to a port where nothing listens."""
    options = (
        f"-Dmaven.repo.local={tmp_path / 'm2'} -Dhttps.proxyHost=127.0.0.1"
        " -Dhttps.proxyPort=9"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tools.fetch"],
        cwd=settings.ROOT,
        env=os.environ | {"MAVEN_OPTS": options},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Maven could not fetch the Java artefacts: check the network" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.badinput
def test_a_maven_that_hangs_is_given_up(tmp_path, monkeypatch):
    """The real Maven, sent to a proxy that accepts it and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        options = (
            f"-Dmaven.repo.local={tmp_path / 'm2'} -Dhttps.proxyHost=127.0.0.1"
            f" -Dhttps.proxyPort={port}"
        )
        monkeypatch.setenv("MAVEN_OPTS", options)
        monkeypatch.setenv("HOME", str(tmp_path))  # with a lock of its own
        monkeypatch.setattr(artefacts, "MAVEN_SECONDS", 10)
        before = set(below())
        with pytest.raises(JavaError, match=r"not fetched .* in 10 s: check the net"):
            artefacts.copy_by_maven(tmp_path / "jars")
    assert until(lambda: set(below()) <= before)


@pytest.mark.badinput
@pytest.mark.security
def test_other_jars_than_expected_are_refused(tmp_path, monkeypatch):
    maven = tmp_path / MAVEN / "bin" / "mvn"
    maven.parent.mkdir(parents=True)
    maven.write_text(
        "#!/bin/sh\nfor a; do case $a in -Dworkshop.java=*) mkdir -p"
        ' "${a#*=}/ignite";; esac; done\n'
    )
    maven.chmod(0o755)
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path))
    with pytest.raises(
        JavaError, match=r"The jars of jvm/\w+ are not the expected ones"
    ):
        artefacts.fetch()
    assert artefacts.modules()[0] in artefacts.missing()


# ---- what Maven loads: plugins, what they load, POMs


PLUGIN = "org/apache/maven/plugins/maven-dependency-plugin/3.8.1/maven-dependency-plugin-3.8.1"
CENTRAL = """<settings><mirrors><mirror><id>own</id><mirrorOf>central</mirrorOf>
<url>{}</url></mirror></mirrors></settings>"""


@pytest.fixture
def small(own_maven, monkeypatch):
    """A project like jvm/ with one module, which Maven resolves in seconds."""
    folder = own_maven / "jvm"
    shutil.copytree(settings.JVM / "spark-kafka", folder / "spark-kafka")
    pom = (settings.JVM / "pom.xml").read_text()
    modules = "<modules><module>spark-kafka</module></modules>"
    (folder / "pom.xml").write_text(
        re.sub("<modules>.*</modules>", modules, pom, flags=re.S)
    )
    shutil.copy(artefacts.CHECKSUMS, folder)
    monkeypatch.setattr(settings, "JVM", folder)
    return folder


def jars_by_maven(folder):
    artefacts.copy_by_maven(folder / "out")
    return artefacts.sums(folder / "out" / "spark-kafka")


@pytest.mark.badinput
@pytest.mark.security
def test_maven_runs_no_plugin_but_the_recorded_one(small):
    """First it fetches, so that the change alone is what it refuses: another plugin,
    another POM, a plugin that nobody recorded.
    """
    recorded = small / artefacts.CHECKSUMS.name
    wanted = files.read_sums(small / "spark-kafka" / "SHA256SUMS")
    assert jars_by_maven(small) == wanted
    good = recorded.read_text()
    for file, change in (
        (f"{PLUGIN}.jar", r"\g<2>\g<1>  \g<3>"),
        (f"{PLUGIN}.pom", r"\g<2>\g<1>  \g<3>"),
        (f"{PLUGIN}.jar", ""),
    ):
        shutil.rmtree(small / "out")
        line = rf"^(.)(.{{63}})  ({re.escape(file)})\n"
        changed, count = re.subn(line, change and f"{change}\n", good, flags=re.M)
        assert (count, changed == good) == (1, False)
        recorded.write_text(changed)
        with pytest.raises(
            JavaError, match=r"another \S*maven-dependency-plugin\S* than"
        ):
            jars_by_maven(small)
        assert not (small / "out").exists()
        (small / "out").mkdir()


@pytest.mark.security
def test_what_a_mirror_gives_is_verified_too(small, tmp_path, monkeypatch):
    """Maven's settings name a mirror, here the cache of this machine; into an empty
    cache comes nothing that is not recorded.
    """
    jars_by_maven(small)  # fills this machine's cache, where it is empty
    shutil.rmtree(small / "out")
    mirror = (Path.home() / ".m2" / "repository").as_uri()
    (tmp_path / "settings.xml").write_text(CENTRAL.format(mirror))
    monkeypatch.setenv("MAVEN_ARGS", f"-s {tmp_path / 'settings.xml'}")
    monkeypatch.setenv("MAVEN_OPTS", f"-Dmaven.repo.local={tmp_path / 'm2'}")
    wanted = files.read_sums(small / "spark-kafka" / "SHA256SUMS")
    assert jars_by_maven(small) == wanted
    recorded = files.read_sums(artefacts.CHECKSUMS)
    got = [
        file for kind in ("jar", "pom") for file in (tmp_path / "m2").rglob(f"*.{kind}")
    ]
    assert len(got) > 50
    assert {str(file.relative_to(tmp_path / "m2")) for file in got} <= set(recorded)
    for file in got:
        assert files.sha256(file) == recorded[str(file.relative_to(tmp_path / "m2"))]


@pytest.mark.security
def test_every_jar_of_the_engines_is_recorded_with_its_coordinates():
    known = {(jar.name, jar.sha256) for jar in artefacts.recorded()}
    assert all(
        jar.name.startswith(f"{jar.artefact}-{jar.version}") and jar.group
        for jar in artefacts.recorded()
    )
    for module in artefacts.modules():
        wanted = files.read_sums(settings.JVM / module / "SHA256SUMS")
        assert {
            (name, sha)
            for name, sha in wanted.items()
            if not name.startswith(artefacts.RELOCATED)
        } <= known


@pytest.fixture
def good(monkeypatch):
    """The folder of the verified jars, which Maven is made to give again."""
    folder = settings.build_dir() / "java"
    monkeypatch.setattr(
        artefacts,
        "copy_by_maven",
        lambda target: shutil.copytree(folder, target, dirs_exist_ok=True),
    )
    return folder


def test_only_the_damaged_module_is_put_back(tmp_path, monkeypatch, good):
    """Another may be in use by a lesson that runs."""
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path))
    shutil.copytree(good, tmp_path / "java")
    whole, damaged = (tmp_path / "java" / module for module in artefacts.modules()[:2])
    next(damaged.glob("*.jar")).unlink()
    before = whole.stat().st_ino
    artefacts.fetch()
    assert artefacts.missing() == []
    assert whole.stat().st_ino == before


def test_sums_are_what_maven_gives(small, monkeypatch, capsys):
    """Written anew for the small project: all of it is what the large one records."""
    recorded = small / artefacts.CHECKSUMS.name
    monkeypatch.setattr(artefacts, "CHECKSUMS", recorded)
    before = files.read_sums(recorded)
    kept = (small / "spark-kafka" / "SHA256SUMS").read_text()
    recorded.unlink()
    java_sums.main()
    assert (small / "spark-kafka" / "SHA256SUMS").read_text() == kept
    after = files.read_sums(recorded)
    assert f"{PLUGIN}.jar" in after
    assert after.items() <= before.items()
    assert list(after) == sorted(after)
    assert "git diff jvm" in capsys.readouterr().out


@pytest.fixture
def mirror(tmp_path):
    """A mirror on loopback with Maven's archive."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / f"{MAVEN}-bin.tar.gz").write_bytes(artefacts.download_maven())
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{MAVEN}-bin.tar.gz", folder
    server.shutdown()
    server.server_close()


def test_maven_is_our_own_whatever_is_installed(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_MAVEN_URL", mirror[0])
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "build"))
    extractall = tarfile.TarFile.extractall
    monkeypatch.setattr(  # as in Python 3.11.2, which knows no filter
        tarfile.TarFile, "extractall", lambda tar, path: extractall(tar, path)
    )
    (tmp_path / "build").mkdir()
    environment = os.environ | {"JAVA_HOME": str(jdk.java_home())}
    said = subprocess.run(
        [artefacts.maven(), "--version"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert f"Apache Maven {artefacts.MAVEN_VERSION}" in said.stdout


@pytest.fixture
def breaks_off():
    """An address that promises a megabyte and hangs up after a few bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhalf"
                )

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/maven.tar.gz"
        thread.join(10)


@pytest.mark.badinput
def test_half_a_maven_is_not_kept(breaks_off, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_MAVEN_URL", breaks_off)
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "build"))
    with pytest.raises(
        JavaError,
        match=r"could not be downloaded .*: check the network, or set WORKSHOP_MAVEN_URL",
    ):
        artefacts.maven()
    assert not (tmp_path / "build").exists()


@pytest.mark.badinput
def test_a_mirror_that_is_no_address(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_MAVEN_URL", "our mirror")
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "build"))
    with pytest.raises(JavaError, match=r"could not be downloaded .*our mirror"):
        artefacts.maven()


@pytest.mark.badinput
@pytest.mark.security
def test_a_wrong_maven_is_refused(mirror, tmp_path, monkeypatch):
    url, folder = mirror
    next(folder.glob("*.tar.gz")).write_bytes(b"not Maven")
    monkeypatch.setenv("WORKSHOP_MAVEN_URL", url)
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "build"))
    with pytest.raises(
        JavaError, match="is not the expected one, and was not unpacked"
    ):
        artefacts.maven()
    assert not list(tmp_path.glob("build/apache-maven*"))


def test_the_archive_is_looked_for_where_maven_looks(tmp_path, monkeypatch):
    """The mirror that Maven's settings name, then what an installed Maven asks."""
    home = tmp_path / "maven"
    for folder in ("bin", "lib"):
        (home / folder).mkdir(parents=True)
    (home / "bin" / "mvn").write_text("#!/bin/sh\n")
    (home / "bin" / "mvn").chmod(0o755)
    with zipfile.ZipFile(home / "lib" / "maven-model-builder-3.8.7.jar", "w") as jar:
        pom = "<repository><url>https://central.example/two</url></repository>"
        jar.writestr("org/apache/maven/model/pom-4.0.0.xml", pom)
    (tmp_path / ".m2").mkdir()
    (tmp_path / ".m2" / "settings.xml").write_text(
        CENTRAL.format("https://mirror.example/one/")
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(home / "bin"))
    archive = (
        f"org/apache/maven/apache-maven/{artefacts.MAVEN_VERSION}/{MAVEN}-bin.tar.gz"
    )
    assert artefacts._repositories() == [
        f"https://mirror.example/one/{archive}",
        f"https://central.example/two/{archive}",
    ]
    monkeypatch.setenv("PATH", "")
    (tmp_path / ".m2" / "settings.xml").write_text("no XML")
    assert artefacts._repositories() == []


def test_at_scale_tiny_only_the_quick_compiler_runs(monkeypatch):
    assert jdk.compilers() == []
    monkeypatch.setenv("WORKSHOP_SCALE", "tiny")
    (flag,) = jdk.compilers()
    asked = [jdk.java(), flag, "-XX:+PrintFlagsFinal", "-version"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert re.search(r"TieredStopAtLevel\s+= 1\b", said)
    for engine in class_archives.ENGINES:
        assert flag in class_archives.options(engine)
    shared = runtime.configuration()
    assert all(
        flag in shared[f"spark.{who}.extraJavaOptions"]
        for who in ("driver", "executor")
    )
