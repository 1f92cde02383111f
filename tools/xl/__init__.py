"""The toolstack: what Xend and xl do. Domains with their trees in the store, devices, guests, and supervisors."""
