"""Files: found, read row by row, and written whole or not at all. Nothing here loads torch."""
