"""`trm numerics`: how far a trainer's or a second engine's log-probs are from an engine's, by depth in the context."""
