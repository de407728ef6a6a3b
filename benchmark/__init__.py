"""The benchmark of cluster managers: `python -m benchmark` measures, benchmark/results/ keeps what it found."""
