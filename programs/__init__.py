"""Programs beside training and evaluation: a first look at data, synthesis, merging adapters,
building the built-in base."""
