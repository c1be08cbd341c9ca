"""The library under the compression survey: tasks, methods, measurements, evidence.

Import from the modules (``from survey_lib.methods import to_prune_or_not``); the
package itself stays light and holds only its version. :mod:`survey_lib.api` has the names that a
reader needs first.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
