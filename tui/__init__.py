"""`hv tui`: the table and a machine on the screen. It draws what the ledger holds and owns no machine state."""
