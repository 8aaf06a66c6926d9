"""How a result appears: temporary names, journal, publishing."""
