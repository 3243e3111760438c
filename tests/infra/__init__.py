"""Tests of `infra/`, of CI and of the wheel."""
