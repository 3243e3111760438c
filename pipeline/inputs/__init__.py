"""The two input tables: videos and questions, what they hold and how they are read."""
