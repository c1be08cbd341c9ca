"""What the common testbed's page shows: methods against ℓ1, how far an order carries, the price."""
