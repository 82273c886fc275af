"""Fixtures of the policy-gradient tests."""

from policy_gradient_steps import run as run
