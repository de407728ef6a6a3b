package workshop

import java.io.{ByteArrayOutputStream, OutputStream, PrintStream, PrintWriter}
import java.net.InetAddress
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.atomic.AtomicLong

import org.apache.spark.scheduler.{SparkListener, SparkListenerJobStart, SparkListenerTaskEnd}
import org.apache.spark.sql.SparkSession

import scala.collection.JavaConverters._
import scala.tools.nsc.Settings
import scala.tools.nsc.interpreter.{IMain, Results}

/** Entry point: a py4j gateway on loopback whose token comes by the environment; its port goes to the log. */
object Main {
  def main(args: Array[String]): Unit = {
    val log = System.out
    System.setOut(new PrintStream(Output, true, "UTF-8")) // before scala.Console looks at it
    val loopback = InetAddress.getByName("127.0.0.1")
    val gateway = new py4j.GatewayServer.GatewayServerBuilder(new Session)
      .javaAddress(loopback)
      .javaPort(0)
      .authToken(System.getenv("WORKSHOP_TOKEN"))
      .build()
    gateway.start()
    log.println("gateway port " + gateway.getListeningPort)
  }
}

/** What println printed and nobody has fetched yet. */
object Output extends OutputStream {
  private val bytes = new ByteArrayOutputStream
  override def write(b: Int): Unit = synchronized { bytes.write(b) }
  override def write(b: Array[Byte], from: Int, n: Int): Unit = synchronized { bytes.write(b, from, n) }
  def take(): String = synchronized { val text = bytes.toString("UTF-8"); bytes.reset(); text }
}

/** Values on their way between the interpreter and Python, by name. */
object Shelf extends ConcurrentHashMap[String, AnyRef]

/** Counts what Spark's tasks moved and took, until `take`. */
class Traffic extends SparkListener {
  private val names = Seq("jobs", "tasks", "shuffle_bytes", "result_bytes", "task_ms")
  private val counts = names.map(_ -> new AtomicLong).toMap

  override def onJobStart(event: SparkListenerJobStart): Unit = counts("jobs").incrementAndGet()

  override def onTaskEnd(event: SparkListenerTaskEnd): Unit = {
    counts("tasks").incrementAndGet()
    for (metrics <- Option(event.taskMetrics)) {
      counts("shuffle_bytes").addAndGet(metrics.shuffleWriteMetrics.bytesWritten)
      counts("result_bytes").addAndGet(metrics.resultSize)
      counts("task_ms").addAndGet(metrics.executorRunTime)
    }
  }

  def take(): java.util.Map[String, Long] =
    counts.map { case (name, count) => name -> count.getAndSet(0) }.asJava
}

/** One Spark context and one Scala interpreter; code runs in a thread of its own, so that it can be stopped. */
class Session {
  private val said = new ByteArrayOutputStream
  private val traffic = new Traffic
  private var spark: SparkSession = _
  private var interpreter: IMain = _
  private var cell: Thread = _
  @volatile private var verdict: Results.Result = Results.Success

  /** Starts Spark while the interpreter starts; an exception of either reaches the caller. */
  def start(conf: java.util.Map[String, String], classpath: String, classes: String): Unit = {
    var failure: Option[Throwable] = None
    val sparkStart = new Thread {
      override def run(): Unit =
        try {
          val builder = SparkSession.builder()
          conf.asScala.foreach { case (key, value) => builder.config(key, value) }
          spark = builder.getOrCreate()
          spark.sparkContext.addSparkListener(traffic)
        } catch { case problem: Throwable => failure = Some(problem) }
    }
    sparkStart.start()
    val settings = new Settings
    settings.processArguments(
      List("-Yrepl-class-based", "-Yrepl-outdir", classes, "-classpath", classpath, "-nowarn"), processAll = true)
    interpreter = new IMain(settings, new PrintWriter(new PrintStream(said, true, "UTF-8"), true))
    interpreter.initializeSynchronous()
    sparkStart.join()
    failure.foreach(problem => throw new IllegalStateException(problem.getMessage))
    Shelf.put("spark", spark)
  }

  /** Starts to run `code`; `ended` tells when it has ended. */
  def submit(code: String): Unit = {
    said.reset()
    cell = new Thread(null, null, "scala-cell", 16 << 20) {
      override def run(): Unit = {
        setContextClassLoader(interpreter.classLoader)
        if (spark != null) spark.sparkContext.setJobGroup("cell", "a Scala cell", interruptOnCancel = true)
        verdict = Results.Error
        verdict = interpreter.interpret(code)
      }
    }
    cell.start()
  }

  /** Waits so many milliseconds; true once the cell has ended. */
  def ended(milliseconds: Long): Boolean = { cell.join(milliseconds); !cell.isAlive }

  /** "Success", "Error" or "Incomplete". */
  def result(): String = verdict.toString

  /** What the interpreter said: values with their types, or the error. */
  def messages(): String = said.toString("UTF-8")

  def output(): String = Output.take()

  /** What has moved since the last call; waits until Spark's own bookkeeping has caught up. */
  def moved(): java.util.Map[String, Long] = { Thread.sleep(100); traffic.take() }

  /** Stops the cell: Spark's jobs first, then its thread, in the end by force, which Java 17 still allows.
    * False when a thread goes on all the same; then only the end of the JVM ends it. */
  def cancel(): Boolean = {
    val ways = Seq[(() => Unit, Long)]((() => (), 1000), (() => cell.interrupt(), 3000), (() => cell.stop(), 20000))
    for ((stop, patience) <- ways if cell.isAlive) {
      spark.sparkContext.cancelAllJobs()
      stop()
      cell.join(patience)
    }
    spark.sparkContext.cancelAllJobs() // one that began in the meantime
    !cell.isAlive && idle(10000)
  }

  private def idle(milliseconds: Long): Boolean = {
    val end = System.currentTimeMillis + milliseconds
    def busy = Thread.getAllStackTraces.keySet.asScala.exists(thread =>
      thread.getName.startsWith("Executor task launch worker") && thread.getState == Thread.State.RUNNABLE)
    while (busy && System.currentTimeMillis < end) Thread.sleep(50)
    !busy
  }

  def sparkVersion(): String = spark.version

  def stop(): Unit = if (spark != null) spark.stop()
}
