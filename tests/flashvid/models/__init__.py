"""Tests of `flashvid.models`."""
