"""Fixtures of images."""

import os

import pytest
from builders import Builder, NoBuilder, find_builder
from tools_here import need_tool

from images import make_base


@pytest.fixture(scope="session")
def builder() -> Builder:
    """What builds images here, with the bases for tests."""
    if os.geteuid() != 0:
        need_tool("images are looked into by chroot, which root alone may do; run the tests as root")
    try:
        found = find_builder(os.environ)
        make_base(found)
    except NoBuilder as error:
        need_tool(str(error))
    return found
