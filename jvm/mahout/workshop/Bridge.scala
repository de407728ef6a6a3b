package workshop

import java.nio.{ByteBuffer, ByteOrder}
import java.nio.channels.FileChannel
import java.nio.file.{Paths, StandardOpenOption => Open}

import org.apache.mahout.math.{DenseMatrix, DenseVector, Matrix, Vector}
import org.apache.mahout.math.drm._
import org.apache.mahout.sparkbindings._
import org.apache.spark.SparkContext
import org.apache.spark.sql.DataFrame

import scala.collection.JavaConverters._
import scala.collection.mutable.ArrayBuffer

/** Between NumPy and Mahout: files of little-endian doubles in C order (ndarray.tofile); tables go as Parquet. */
object Bridge {
  private val chunkBytes = 1 << 20

  private def rowsPerChunk(ncol: Int) = math.max(1, chunkBytes / (8 * ncol))

  private def buffer(rows: Int, ncol: Int) = ByteBuffer.allocate(rows * ncol * 8).order(ByteOrder.LITTLE_ENDIAN)

  private def rows(path: String, from: Int, until: Int, ncol: Int): Array[Array[Double]] = {
    val file = FileChannel.open(Paths.get(path), Open.READ)
    try {
      val out = new Array[Array[Double]](until - from)
      file.position(from.toLong * ncol * 8)
      for (start <- from until until by rowsPerChunk(ncol)) {
        val n = math.min(rowsPerChunk(ncol), until - start)
        val bytes = buffer(n, ncol)
        while (bytes.hasRemaining) if (file.read(bytes) < 0) throw new java.io.EOFException(path)
        bytes.flip()
        val doubles = bytes.asDoubleBuffer()
        for (k <- 0 until n) {
          val row = new Array[Double](ncol)
          doubles.get(row)
          out(start - from + k) = row
        }
      }
      out
    } finally file.close()
  }

  /** A distributed row matrix with the keys 0 until nrow in `parts` partitions. Every job reads the file anew (from
    * the system's page cache), so no mapBlock that writes into its block can spoil it. */
  def distributed(sc: SparkContext, path: String, nrow: Int, ncol: Int, parts: Int): CheckpointedDrm[Int] =
    drmWrapBlockified(sc.parallelize(0 until parts, parts).map { part =>
      val from = (nrow.toLong * part / parts).toInt
      val until = (nrow.toLong * (part + 1) / parts).toInt
      (Array.range(from, until), new DenseMatrix(rows(path, from, until, ncol), true): Matrix)
    }, nrow, ncol)

  def inCore(path: String, nrow: Int, ncol: Int): Matrix = new DenseMatrix(rows(path, 0, nrow, ncol), true)

  def vector(path: String, n: Int): Vector = new DenseVector(rows(path, 0, 1, n)(0), true)

  /** Lays a value out for Python: "matrix r,c" or "vector n" in the file, "table" in Parquet, "value" on the shelf. */
  def hand(value: Any, path: String): Unit = {
    Shelf.put("kind", value match {
      case table: DataFrame => Shelf.put("columns", writeTable(table, path)); "table"
      case drm: DrmLike[_] => "matrix " + writeDistributed(drm.asInstanceOf[DrmLike[Int]], path)
      case matrix: Matrix => write(matrix, path); s"matrix ${matrix.rowSize},${matrix.columnSize}"
      case vector: Vector => writeVector(vector, path)
      case doubles: Array[Double] => writeVector(new DenseVector(doubles, true), path)
      case numbers: Traversable[_] if numbers.nonEmpty && numbers.forall(_.isInstanceOf[Number]) =>
        writeVector(new DenseVector(numbers.map(_.asInstanceOf[Number].doubleValue).toArray, true), path)
      case values: Traversable[_] => shelve(values.toSeq.asJava)
      case other => shelve(other.asInstanceOf[AnyRef])
    })
  }

  private def shelve(value: AnyRef): String = {
    if (value != null) Shelf.put("value", value) else Shelf.remove("value")
    "value"
  }

  /** Parquet refuses names like "avg(x)" here, so the columns travel without their names. */
  private def writeTable(table: DataFrame, path: String): java.util.List[String] = {
    table.toDF(table.columns.indices.map("c" + _): _*).coalesce(1).write.parquet(path)
    table.columns.toSeq.asJava
  }

  private def create(path: String, bytes: Long): FileChannel = {
    val file = FileChannel.open(Paths.get(path), Open.CREATE, Open.TRUNCATE_EXISTING, Open.READ, Open.WRITE)
    if (bytes > 0) file.write(ByteBuffer.allocate(1), bytes - 1) // the full length at once: absent rows read as zeros
    file
  }

  private def writeVector(vector: Vector, path: String): String = {
    val row = new DenseMatrix(1, vector.size)
    row.assignRow(0, vector)
    write(row, path)
    s"vector ${vector.size}"
  }

  private def write(matrix: Matrix, path: String): Unit = {
    val file = create(path, 0)
    try put(file, 0, matrix)
    finally file.close()
  }

  private def put(file: FileChannel, position: Long, matrix: Matrix): Unit = {
    val ncol = matrix.columnSize
    for (start <- 0 until matrix.rowSize by rowsPerChunk(ncol)) {
      val n = math.min(rowsPerChunk(ncol), matrix.rowSize - start)
      val bytes = buffer(n, ncol)
      for (i <- start until start + n) {
        val row = matrix.viewRow(i)
        for (j <- 0 until ncol) bytes.putDouble(row.get(j))
      }
      bytes.flip()
      var at = position + start.toLong * ncol * 8
      while (bytes.hasRemaining) at += file.write(bytes, at)
    }
  }

  /** Each partition writes its own rows at their places in the one file; the keys must be row numbers. */
  private def writeDistributed(drm: DrmLike[Int], path: String): String = {
    val checkpoint = drm.checkpoint(CacheHint.NONE)
    val (nrow, ncol) = (checkpoint.nrow, checkpoint.ncol)
    create(path, nrow * ncol * 8).close()
    checkpoint.rdd.asInstanceOf[DrmRdd[Int]].foreachPartition { rows =>
      val file = FileChannel.open(Paths.get(path), Open.WRITE)
      try consecutive(rows, ncol).foreach { case (start, block) => put(file, start.toLong * ncol * 8, block) }
      finally file.close()
    }
    s"$nrow,$ncol"
  }

  private def consecutive(rows: Iterator[(Int, Vector)], ncol: Int): Iterator[(Int, Matrix)] = {
    val buffered = rows.buffered
    Iterator.continually(buffered).takeWhile(_.hasNext).map { rest =>
      val start = rest.head._1
      val run = new ArrayBuffer[Array[Double]]
      while (rest.hasNext && rest.head._1 == start + run.size && run.size < 8192) {
        val row = new Array[Double](ncol)
        rest.next()._2.nonZeroes.asScala.foreach(element => row(element.index) = element.get)
        run += row
      }
      (start, new DenseMatrix(run.toArray, true): Matrix)
    }
  }
}
