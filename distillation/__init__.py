"""Distillation: a student learns the distribution of a teacher, token by token."""

from distillation.api import run

__all__ = ["run"]
