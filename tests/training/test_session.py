"""Resume directories that are opened together."""

import pytest

from mpo.study.config import ConfigError
from mpo.training.session import open_directories


def test_two_seeds_in_one_directory_are_refused_instead_of_waiting_for_themselves(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for other in ("a", "link"):
        paths = [tmp_path / "a", tmp_path / "b", tmp_path / other]
        with (
            pytest.raises(ConfigError, match="resume directory for each seed, received .*a twice"),
            open_directories(paths, ["{}"] * 3),
        ):
            pass
    assert not (tmp_path / "b").exists()
