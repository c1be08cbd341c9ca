"""What a reader sees: figures, the card panel, tables, verdicts, explorers, exercises.

Import from the modules: ``from survey_lib.show.figure import figure``.
"""
