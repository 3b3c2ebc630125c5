"""Networks, and what containers have of them: addresses, names, published ports."""
