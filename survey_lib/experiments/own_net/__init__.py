"""Methods compared on a net of one's own: no chapter, and run by the same runner."""
