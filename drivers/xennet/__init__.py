"""netfront and netback: a network card for a guest, and its other end on the host."""
