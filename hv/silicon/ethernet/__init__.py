"""What Intel's Ethernet controllers share: frames, checksums and segments, and how a table of registers is written."""
