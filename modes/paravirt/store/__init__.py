"""Xenstore: a small tree of text that a machine's domains share, and domain 0's server of it, embedded.

nodes.py         the tree: values, permissions, quotas      transaction.py  several changes at once, or none
store.py         requests by whoever makes them, watches    client.py       domain 0's own, in the same process
wire.py          messages as bytes                          ring.py         the guest's, over a page that it shares
"""
