"""Training recipes: schema, reading, errors."""
