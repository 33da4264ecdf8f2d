"""README's ten-minute lab, word for word: `make lab-test`. It takes less here."""

from __future__ import annotations

from pathlib import Path

from tests.readme import blocks, run


def test_lab(tmp_path: Path) -> None:
    """The demo, what the lab does with it while it stays up, and its end."""
    output = run(blocks("A ten-minute lab"), tmp_path)
    assert "demo: ok: 1000 sent, 0 lost, 0 duplicated" in output
    for sent in (3, 30, 3):
        _, found, output = output.partition(f"{sent} packets transmitted, {sent} received, 0%")
        assert found, output
        if sent == 30:
            assert output.count("shortcut-up") == 2
            assert "shortcut-down" in output
    assert "demo-down: removed dmdemo-hub" in output
