"""The Python interface: prepare and run logs, read runs as frames, compare and draw them. See docs/python.md."""
