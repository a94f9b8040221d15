"""Networks. Usable alone: nothing here reads data, trains or measures."""
