"""Methods against each other on the same splits, connectivity among them."""
