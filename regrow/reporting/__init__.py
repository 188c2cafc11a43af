"""Reports: every result in some directories, on one page and as Markdown with figures."""
