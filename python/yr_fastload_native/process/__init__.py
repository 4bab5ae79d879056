"""What belongs to the whole process: deadlines, threads, its end."""
