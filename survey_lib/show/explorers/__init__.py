"""The explorers of the chapters, one module each."""
