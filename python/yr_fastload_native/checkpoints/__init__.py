"""The files of a checkpoint, and what distinguishes them from another's."""
