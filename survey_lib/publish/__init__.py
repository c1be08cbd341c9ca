"""From source to site: execute the chapters, stage the book, build it, check it."""
