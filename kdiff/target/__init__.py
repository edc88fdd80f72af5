# SPDX-License-Identifier: Apache-2.0
"""All that runs on the machine being updated: apply, view and undo.

Standard library only, and of that only what starts quickly: these commands must answer at once even where
Python runs thirty times slower than here. Values are therefore named tuples, not dataclasses.
"""
