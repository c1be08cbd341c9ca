"""Layer-wise relevance propagation: what an answer rests on, handed back through the net."""
