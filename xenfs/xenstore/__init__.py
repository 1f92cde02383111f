"""The store: tree, permissions, transactions, watches, quotas, and the protocol. A pure model."""
