"""Tasks, runs that record the answers to them, and the grading of these records."""
