"""Archives of classes: JVMs read theirs, another Java or other jars lead to another,
and none is half written.
"""

import os
import subprocess

import pytest

from helpers import settings
from helpers.ignite import recipe
from helpers.java import artefacts, class_archives, jdk
from helpers.java.jdk import JavaError
from helpers.spark import runtime
from tools import archive_classes


def test_set_up_has_made_all():
    assert class_archives.missing() == []
    assert archive_classes.RUNS.keys() == set(class_archives.ENGINES)


@pytest.mark.parametrize("engine", class_archives.ENGINES)
def test_none_is_asked_for_where_none_is(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "build_dir", lambda: tmp_path)
    monkeypatch.setattr(artefacts, "jars", lambda _: [])
    assert class_archives.options(engine) == []


def test_a_node_reads_its_classes_from_the_archive():
    command = [
        *recipe.java(64, "-Xlog:class+load"),
        "org.apache.ignite.startup.cmdline.CommandLineStartup",
        "-h",
    ]
    loaded = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    ours = [line for line in loaded if " org.apache.ignite." in line]
    assert sum("shared objects file (top)" in line for line in ours) > len(ours) / 2 > 1


def test_the_driver_of_spark_gets_its_archive():
    assert (
        str(class_archives.path("spark"))
        in runtime.configuration()["spark.driver.extraJavaOptions"]
    )


def test_the_name_follows_the_jars(monkeypatch, tmp_path):
    jar = tmp_path / "a.jar"
    jar.write_bytes(b"a")
    monkeypatch.setattr(artefacts, "jars", lambda _: [jar])
    before = class_archives.path("kafka")
    jar.write_bytes(b"ab")
    assert class_archives.path("kafka") != before


def test_the_name_is_the_same_in_an_image_which_keeps_whole_seconds(
    monkeypatch, tmp_path
):
    jar = tmp_path / "a.jar"
    jar.write_bytes(b"a")
    monkeypatch.setattr(artefacts, "jars", lambda _: [jar])
    names = []
    for nanoseconds in (1_700_000_000_987_654_321, 1_700_000_000 * 10**9, 0):
        os.utime(jar, ns=(nanoseconds, nanoseconds))
        names.append(class_archives.path("kafka"))
    assert names[0] == names[1] != names[2]


def test_an_archive_that_does_not_fit_is_passed_over_without_a_word():
    foreign = [
        f"-XX:SharedArchiveFile={class_archives.path('kafka')}",
        class_archives.QUIET,
    ]
    java = [jdk.java(), *foreign, "-cp", str(settings.ROOT), "-version"]
    done = subprocess.run(java, capture_output=True, text=True)
    assert done.returncode == 0
    assert "warning" not in done.stdout + done.stderr


def test_what_cannot_be_written_leaves_no_archive(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "build_dir", lambda: tmp_path)
    old = class_archives.path("kafka")
    old.parent.mkdir()
    old.write_bytes(b"an older one")
    with pytest.raises(
        JavaError, match=r"^No archive of kafka's classes was written: No such process$"
    ):
        class_archives.dump("kafka", 99_999_999)  # no such process
    assert [file.name for file in old.parent.iterdir()] == [old.name]
    assert old.read_bytes() == b"an older one"


def test_a_failure_says_that_starts_are_slower_and_is_not_repeated(
    monkeypatch, tmp_path, capsys
):
    def fails(*_):
        raise JavaError("the disk is full")

    engine = "kafka"
    jars = artefacts.jars(engine)
    monkeypatch.setattr(class_archives, "ENGINES", [engine])
    monkeypatch.setattr(class_archives, "dump", fails)
    monkeypatch.setattr(settings, "build_dir", lambda: tmp_path)
    monkeypatch.setattr(artefacts, "jars", lambda _: jars)
    for _ in range(2):
        archive_classes.main()
    assert (
        capsys.readouterr().err.count("kafka will start more slowly: the disk is full")
        == 1
    )
    assert class_archives.options(engine) == []


def test_a_java_without_jcmd_is_not_asked(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(jdk, "java_home", lambda: tmp_path)
    assert class_archives.missing() == []
