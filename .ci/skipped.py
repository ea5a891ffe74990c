"""The tests that a run skipped, one a line for `pytest @FILE`: `skipped.py JUNIT.xml` (junit_family=xunit1)."""

import sys
from xml.etree import ElementTree

for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
    if case.find("skipped") is not None:
        file = case.attrib["file"]
        # A file that was left out as a whole stands there without a class
        name = f"{file}::{case.attrib['name']}" if case.attrib["classname"] else file
        sys.stdout.write(name + "\n")
