"""Shadow paging, for every mode whose real CPU does not translate a guest's addresses by itself.

Read in this order: registers.py and guest_tables.py (how a guest translates), pager.py (the tables that the real CPU
walks), faults.py (what a page fault means).
"""
