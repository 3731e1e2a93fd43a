"""What is alive only with a kernel: curves while training runs, the table of a sweep."""
