"""The end of a run: its cause in two lines, its exit code, a stop on request, and the disk that it needs."""
