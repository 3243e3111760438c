"""Scores of answers: letters, words, accuracy."""
