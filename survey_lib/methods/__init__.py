"""The methods, one file per paper; :mod:`survey_lib.methods.contract` lists them."""
