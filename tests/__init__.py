# SPDX-License-Identifier: Apache-2.0
"""Tests of what this repository holds; a package, so that they find ``tests.support`` wherever the checkout lies."""
