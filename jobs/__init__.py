"""What a person touches: the job file, the command line, progress and summaries."""
