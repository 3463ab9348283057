"""The benchmark: `python -m tests.benchmarks` prints a table and writes JSON. See ``__main__``."""
