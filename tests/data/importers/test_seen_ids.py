"""Ids of an import are remembered exactly, in bounded memory."""

import resource

from clipbert.data.importers.seen_ids import SeenIds


def test_an_id_is_new_once_in_each_kind() -> None:
    seen = SeenIds()
    assert [seen.add("caption", name) for name in ("a", "b", "a", "\udc80", "\udc80", "é", "e\u0301")] == [
        True,
        True,
        False,
        True,
        False,
        True,
        True,
    ]
    assert seen.add("open_qa", "a")


def test_half_a_million_ids_do_not_stay_in_memory() -> None:
    seen = SeenIds()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert all(seen.add("caption", f"a-long-name-of-a-caption-of-a-video-{number:060d}") for number in range(500_000))
    assert not seen.add("caption", f"a-long-name-of-a-caption-of-a-video-{0:060d}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (
        grown < 100 * 1024
    )  # KiB; a set of these strings takes 102 MB more than a database without a limit on its cache
