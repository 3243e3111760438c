"""`make fuzz`: hostile inputs of every kind. Each ends with one message, or as it would have without the mutation."""
