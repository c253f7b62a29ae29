"""One file per family of operators; ``explain.linear.book`` says which operator belongs to which."""
