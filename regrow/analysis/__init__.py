"""Numbers and tables from graded records."""
