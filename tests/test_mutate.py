"""The faults of mutate.py can still be planted."""

import pytest
from conftest import ROOT
from mutate import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_faults_text_stands_once_in_its_file(fault):
    assert (ROOT / fault.file).read_text().count(fault.old) == 1
    assert fault.new != fault.old


def test_faults_have_names_of_their_own():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 60
