"""An experiment whose cells do what their arm says."""
