"""Tests of `flashvid.engine`."""
