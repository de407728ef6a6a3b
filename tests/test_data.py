"""The data set and the design matrix: what they hold, and what happens when a file is
damaged.
"""

import os
import resource
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from helpers import data, settings


@pytest.fixture
def copied_data(tmp_path, monkeypatch):
    shutil.copytree(settings.DATA, tmp_path / "data")
    monkeypatch.setattr(settings, "DATA", tmp_path / "data")
    return tmp_path / "data"


def test_labels():
    flights = data.labelled_flights()
    assert flights.shape == (327_346, 21)
    assert flights["id"].is_unique
    assert flights["late"].mean() == pytest.approx(0.2447, abs=1e-4)
    assert ((flights["arr_delay"] >= 15) == flights["late"].astype(bool)).all()


def test_split_is_by_time():
    train, test = data.time_split(data.labelled_flights())
    assert train["time_hour"].max() < test["time_hour"].min()
    assert len(train) + len(test) == 327_346


def test_joins_neither_drop_nor_repeat_flights():
    features = data.features("live")
    assert (features["id"].to_numpy() == data.labelled_flights()["id"].to_numpy()).all()
    assert features["wind_speed"].max() < 200
    assert set(data.features("live")) - set(data.features("scheduled")) == {"dep_delay"}


@pytest.mark.parametrize("scale", settings.SCALES)
@pytest.mark.parametrize("which", data.FEATURE_SETS)
def test_design_matrix_has_full_rank(which, scale):
    m = data.design_matrix(which, scale)
    X = np.column_stack([np.ones(len(m.X_train)), m.X_train])
    assert np.linalg.matrix_rank(X) == X.shape[1] == len(m.columns) + 1
    assert X.dtype == np.float64
    assert np.isfinite(m.X_test).all()
    assert len(m.X_test) == len(m.y_test) == len(m.id_test)


def test_design_matrix_is_standardised_with_training_rows_only():
    m = data.design_matrix("scheduled", "full")
    assert np.abs(m.X_train.mean(axis=0)).max() < 1e-9
    assert np.abs(m.X_train.std(axis=0) - 1).max() < 1e-9
    assert np.abs(m.X_test.mean(axis=0)).max() > 0.1


def test_encoding_ignores_the_test_rows():
    frame = data.features("scheduled")
    changed = frame.copy()
    test = ~data.in_training(frame)
    changed.loc[test, "temp"] = 1e6
    changed.loc[test, "distance"] = 1
    changed.loc[test, "carrier"] = "XX"
    train = ~test
    pd.testing.assert_frame_equal(
        data.encode(frame)[train], data.encode(changed)[train]
    )


def test_keys_lead_back_to_the_flights():
    m = data.design_matrix("live", "tiny")
    flights = data.table("flights").iloc[m.id_test]
    assert ((flights["arr_delay"] >= 15).to_numpy() == m.y_test).all()
    delay = m.X_test[:, m.columns.index("dep_delay")]
    assert np.corrcoef(delay, flights["dep_delay"])[0, 1] == pytest.approx(1)


def test_scheduled_is_live_without_the_delay():
    scheduled, live = (
        data.design_matrix("scheduled", "tiny"),
        data.design_matrix("live", "tiny"),
    )
    assert [*scheduled.columns, "dep_delay"] == live.columns
    assert (scheduled.X_train == live.X_train[:, :-1]).all()


def test_matrix_is_saved_once(tmp_path, monkeypatch):
    first = data.design_matrix("scheduled", "tiny")
    monkeypatch.setattr(
        data, "features", lambda *_: pytest.fail("the saved matrix was not used")
    )
    assert (data.design_matrix("scheduled", "tiny").X_train == first.X_train).all()


def test_shuffled_labels_leave_nothing_to_learn(monkeypatch):
    monkeypatch.setenv("WORKSHOP_SHUFFLE_LABELS", "1")
    m = data.design_matrix("live", "tiny")
    model = LogisticRegression(max_iter=200).fit(m.X_train, m.y_train)
    assert (
        abs(roc_auc_score(m.y_test, model.predict_proba(m.X_test)[:, 1]) - 0.5) < 0.03
    )
    assert m.y_train.mean() == pytest.approx(0.245, abs=0.01)


@pytest.mark.badinput
def test_missing_table(copied_data):
    (copied_data / "planes.parquet").unlink()
    with pytest.raises(
        data.DataError,
        match=r"planes.parquet is missing: restore it with `git checkout",
    ):
        data.table("planes")


@pytest.mark.badinput
def test_damaged_table(copied_data):
    file = copied_data / "weather.parquet"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        data.DataError,
        match=r"weather.parquet is damaged .* restore it with `git checkout",
    ):
        data.table("weather")


@pytest.mark.badinput
def test_wrong_names():
    with pytest.raises(ValueError, match="use one of flights, weather"):
        data.table("trains")
    with pytest.raises(ValueError, match="use one of scheduled, live"):
        data.design_matrix("dead")
    with pytest.raises(settings.SettingError, match="use one of tiny, full"):
        data.design_matrix("live", "huge")


@pytest.mark.badinput
def test_a_table_cut_short(copied_data):
    file = copied_data / "flights.parquet"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(
        data.DataError,
        match=r"flights.parquet is damaged .* restore it with `git checkout",
    ):
        data.labelled_flights()


@pytest.mark.badinput
def test_a_table_with_other_columns(copied_data):
    pd.DataFrame({"arrival": [3]}).to_parquet(copied_data / "flights.parquet")
    with pytest.raises(
        data.DataError,
        match=r"flights.parquet is damaged .* restore it with `git checkout",
    ):
        data.features()


@pytest.mark.badinput
@pytest.mark.parametrize(
    "text", [None, "", "three words here\n"], ids=["missing", "empty", "damaged"]
)
def test_without_checksums_nothing_is_read(copied_data, text):
    (copied_data / "SHA256SUMS").unlink()
    if text is not None:
        (copied_data / "SHA256SUMS").write_text(text)
    with pytest.raises(
        data.DataError,
        match="data/SHA256SUMS is missing or damaged: restore it with `git checkout",
    ):
        data.table("airlines")


@pytest.mark.badinput
@pytest.mark.parametrize("name", ["columns.json", "X_test.npy", "y_train.npy"])
def test_a_saved_matrix_cut_short(tmp_path, monkeypatch, name):
    data.design_matrix("live", "tiny")
    shutil.copytree(
        settings.build_dir() / "matrix", tmp_path / "matrix", copy_function=os.link
    )
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path))
    (file,) = data._saved_matrix().glob(name)
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        data.DataError,
        match=r"saved design matrix is damaged: delete .*matrix.* and run this again",
    ):
        data.design_matrix("live", "tiny")
    shutil.rmtree(tmp_path / "matrix")


@pytest.mark.badinput
def test_no_room_for_the_matrix_leaves_nothing_behind(tmp_path, monkeypatch):
    """The system's own limit on the size of a file stands for the full disk."""
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(
            data.DataError, match=r"design matrix cannot be saved in .*matrix"
        ):
            data.design_matrix("live", "tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "matrix").iterdir()) == []


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
            "WORKSHOP_SERVICE_MAX_AGE",
            "old",
            settings.service_max_age,
            "whole number from 1 to 86400",
        ),
        (
            "WORKSHOP_CELL_LIMIT",
            "an hour",
            lambda: settings.cell_limit(3600),
            "whole number from 1 to 604800",
        ),
        ("WORKSHOP_BUILD", __file__, settings.build_dir, "is no folder: name one"),
    ],
)
def test_settings_that_do_not_do(monkeypatch, name, value, read, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(settings.SettingError, match=words):
        read()
