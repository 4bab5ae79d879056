"""What the files of a checkpoint are, and what tells them from those of another."""
