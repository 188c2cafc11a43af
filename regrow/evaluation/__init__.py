"""Tasks, the runs that answer them and the grading of what was recorded."""
