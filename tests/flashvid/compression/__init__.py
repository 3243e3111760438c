"""Tests of `flashvid.compression`."""
