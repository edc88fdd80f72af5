# SPDX-License-Identifier: Apache-2.0
"""What x86-64 and i386 have in common: a library of their plugins, and no plugin itself."""
