"""Operations of several steps with waits between them, without I/O, and the two runners that carry them out."""
