"""The library's own code, shown in a page with a link to its file."""

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from survey_lib import files
from survey_lib.show import page


class Source:
    """Source text of functions or classes; a notebook shows it highlighted."""

    def __init__(self, *objects: Callable[..., Any]):
        """Keep the source of ``objects``, in order; all from one module.

        Raises:
            ValueError: none is given.
        """
        if not objects:
            raise ValueError("source needs at least one function or class to show")
        self.text = "\n\n".join(textwrap.dedent(inspect.getsource(o)).rstrip() for o in objects)
        self.path = Path(inspect.getfile(inspect.unwrap(objects[0]))).resolve()
        self.line = inspect.getsourcelines(objects[0])[1]

    def address(self) -> str:
        """Where the file lies in the repository, at the first line shown."""
        url, branch = page.repository()
        inside = self.path.relative_to(files.PACKAGE.parent).as_posix()
        return f"{url}/blob/{branch}/{inside}#L{self.line}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        name = self.path.relative_to(files.PACKAGE.parent).as_posix()
        text = f"```python\n{self.text}\n```\n\n[`{name}`]({self.address()})"
        return {"text/markdown": text, "text/plain": self.text}


def source(*objects: Callable[..., Any]) -> Source:
    """Show the source of library functions, with a link to their file."""
    return Source(*objects)
