"""Tests of `flashvid`."""
