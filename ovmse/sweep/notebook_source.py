"""What a notebook file says without being run: its code and its parameters."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

from ovmse.errors import UserError
from ovmse.runs.files import from_json, read_text


def assigned(source: str) -> dict[str, Any]:
    """The names that Python code assigns at its top level, with their literal values.

    A value that is not a literal is None. Raises UserError if it is not Python.
    """
    values: dict[str, Any] = {}
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise UserError(f"the parameters are not plain Python ({error.msg})") from None
    for statement in body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        else:
            continue
        try:
            value = ast.literal_eval(statement.value)  # type: ignore[arg-type]
        except ValueError:
            value = None
        values |= {t.id: value for t in targets if isinstance(t, ast.Name)}
    return values


def parameters_cell(path: Path) -> dict[str, Any]:
    """Names and defaults in the cell tagged `parameters`; raises UserError if there is none."""
    for cell in _code_cells(path):
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            return assigned("".join(cell["source"]))
    raise UserError(f"{path} has no cell tagged 'parameters'")


def code_checksum(path: Path) -> str:
    """SHA-256 of the code cells alone: prose and stored outputs do not count."""
    code = "\0".join("".join(cell["source"]) for cell in _code_cells(path))
    return hashlib.sha256(code.encode()).hexdigest()


def _code_cells(path: Path) -> list[Any]:
    # As JSON: nbformat's import costs two seconds.
    try:
        cells = from_json(read_text(path))["cells"]
        return [cell for cell in cells if cell["cell_type"] == "code"]
    except OSError as error:
        raise UserError(f"there is no notebook {path} ({error.strerror})") from None
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{path} is not a notebook of format 4") from None
