"""An experiment in two files, whose cells need each other."""
