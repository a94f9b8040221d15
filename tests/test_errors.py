from __future__ import annotations

import pickle

import pytest

from medformer import errors
from medformer.errors import MedformerError, UnknownNameError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MedformerError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_comes_back_from_another_process(kind: type[MedformerError]) -> None:
    error = kind("model", "dce", ["dice"]) if kind is UnknownNameError else kind("got this, expected that")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.exit_code) == (str(error), error.exit_code)
