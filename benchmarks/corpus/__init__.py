# SPDX-License-Identifier: Apache-2.0
"""A corpus of real fixes: the difference of two point releases, cut into patches that stand alone.

`trees` has both sources, `hunks` their difference, `split` cuts it, `changelog` says what each piece fixes,
`built` which pieces reach the stock kernel, `manifest` writes the list down. `creating` makes updates,
`guests` applies and undoes them, `outcomes` keeps what became of each, `report` and `page` show it.
"""
