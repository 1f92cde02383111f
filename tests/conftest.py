"""What tests share is rewritten by pytest as they are: a failed assertion there tells its values too."""

import pytest

pytest.register_assert_rewrite("tests.models", "tests.hostile.rings", "tests.mounted.command.lab", "tests.unit.forms")

pytest_plugins = "pytester"
