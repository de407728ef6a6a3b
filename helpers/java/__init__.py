"""Java for all engines: the JDK, the jars, quick starts, a JVM driven from Python."""
