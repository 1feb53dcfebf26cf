"""Who is measured: each side of a comparison, declared in one place."""
