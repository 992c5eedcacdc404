"""Intel's 82540EM, file by file: nic.py is the whole, the others its parts."""
