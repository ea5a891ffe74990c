"""Runs the notebooks here and stores their outputs, images as JPEG: ``python docs/notebooks/run.py [NAME]...``

Needs the extra `docs`. What changes from run to run (times, addresses, kernels) is left out, so that a diff shows
what is different.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def execute(path: Path, folder: Path) -> Any:
    """The notebook with the outputs of a run in an empty folder. Raises CellExecutionError for a cell that fails."""
    notebook = nbformat.read(path, as_version=4)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SAM2CORE_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        startup_timeout=300,
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env=environment)
    return tidied(notebook)


def tidied(notebook: Any) -> Any:
    """The notebook with what any kernel would give: numbered cells, JPEG instead of PNG, no addresses in memory."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    notebook.nbformat_minor = 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {})
        for output in cell.get("outputs", ()):
            output.pop("execution_count", None)
            if output.output_type == "execute_result":
                output["execution_count"] = cell.execution_count
            data = output.get("data", {})
            if "image/jpeg" in data:
                data.pop("image/png", None)
                data["text/plain"] = re.sub(r" at 0x\w+", "", data["text/plain"])
    return notebook


def main(names: list[str]) -> None:
    known = {path.stem: path for path in sorted(HERE.glob("*.ipynb"))}
    for name in names or known:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(known[name], Path(folder))
        nbformat.write(notebook, known[name])
        sys.stdout.write(f"{known[name].name}: {known[name].stat().st_size / 1e3:.0f} KB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
