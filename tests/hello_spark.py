"""A Spark application that runs one task and says so; tests submit it."""

from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
print(f"{spark.range(10).count()} rows")
spark.stop()
