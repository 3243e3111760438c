"""The Qwen families, and what they share."""
