"""The whole suite runs in a network namespace of its own."""

pytest_plugins = ["rawmmsg.testing"]
