"""What users import is typed to the last attribute: pyright's own measure, on the package as it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(180)
def test_every_public_type_is_known(tmp_path: Path) -> None:
    # An editable install is no package to pyright: a copy of the package beside nothing else is.
    site = tmp_path / "lib"
    site.mkdir()
    (site / "definable").symlink_to(ROOT / "definable")
    pyright = Path(sys.executable).with_name("pyright")
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{site}"]}}')
    result = subprocess.run(
        [pyright, "--verifytypes", "definable", "--ignoreexternal"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site), "PATH": f"{pyright.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Type completeness score: 100%" in result.stdout, result.stdout[-2000:]
    assert "With ambiguous type: 0" in result.stdout and "With unknown type: 0" in result.stdout
