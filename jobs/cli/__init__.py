"""The `flashvid` command: one file for each group of commands."""
