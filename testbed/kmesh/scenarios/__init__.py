"""The contract, scenario by scenario: ordinary pytest tests, collected by `testbed check` and pytest.

A module's first line is the heading of its scenarios, a test's first line its title.
"""
