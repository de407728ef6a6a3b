"""Settings: what the environment says is read once, and what it cannot mean is refused
with an example.
"""

import pytest

from helpers import settings

ADDRESSES = {"WORKSHOP_IGNITE": settings.ignite, "WORKSHOP_KAFKA": settings.kafka}


def test_addresses_are_a_list_with_commas(monkeypatch):
    for name in ADDRESSES:
        monkeypatch.setenv(name, "one:10800, two:10801")
    assert settings.ignite() == [("one", 10800), ("two", 10801)]
    assert settings.kafka() == "one:10800,two:10801"


def test_without_addresses_there_is_no_external_cluster(monkeypatch):
    for name in ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    assert settings.ignite() == []
    assert settings.kafka() is None


@pytest.mark.badinput
@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize(
    "wrong", ["one", "one:", ":10800", "one:port", "one:0", "one:99999"]
)
def test_what_is_no_address_is_refused(monkeypatch, name, wrong):
    monkeypatch.setenv(name, wrong)
    with pytest.raises(settings.SettingError, match=f"{name}: .* is not host:port"):
        ADDRESSES[name]()


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("name", "value", "read", "words"),
    [
        ("WORKSHOP_SCALE", "huge", settings.scale, "use one of tiny, full"),
        ("WORKSHOP_DEVICE", "tpu", settings.device, "use one of cpu, gpu"),
        (
            "WORKSHOP_SPARK_MASTER",
            "here:7077",
            settings.spark_master,
            "is no master URL, as spark://",
        ),
        (
            "WORKSHOP_SERVICE_DRAIN",
            "61",
            settings.service_drain,
            "whole number from 0 to 60",
        ),
        (
            "WORKSHOP_SERVICE_HEALTH_PORT",
            "http",
            settings.service_health_port,
            "whole number from 1 to 65535",
        ),
        (
            "WORKSHOP_SERVICE_PATIENCE",
            "0",
            settings.service_patience,
            "whole number from 1 to 600",
        ),
        (
            "WORKSHOP_SERVICE_STORE_BUDGET",
            "0.5",
            settings.service_store_budget,
            "whole number from 10 to 60000",
        ),
        (
            "WORKSHOP_SERVICE_MAX_AGE",
            "old",
            settings.service_max_age,
            "whole number from 1 to 86400",
        ),
        ("WORKSHOP_BUILD", __file__, settings.build_dir, "is no folder: name one"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(monkeypatch, name, value, read, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(settings.SettingError, match=words):
        read()
