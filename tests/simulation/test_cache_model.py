"""Traces that were worked out by hand, on caches of a few lines."""

from __future__ import annotations

import numpy as np
import pytest

from smartmem_tvm.simulation import CacheConfiguration, CacheConfigurations, CacheModel, CacheShape
from smartmem_tvm.simulation.cache_model import Memory, Site

LINE = 64
BUFFER = Memory("A", 1 << 16, 4)
LOAD, STORE = 0, 1  # sites of every trace below


def tiny(buffer_lines=None, ways=1, l2_lines=4, tile=(4, 1), texture_lines=2):
    """Caches of so many lines of 64 bytes."""
    cache = lambda lines, ways: CacheShape(lines * LINE / 1024, LINE, ways)  # noqa: E731
    buffer = None if buffer_lines is None else cache(buffer_lines, ways)
    return CacheConfiguration(
        "tiny", cache(texture_lines, texture_lines), tile, buffer, cache(l2_lines, l2_lines)
    )


def trace(config, instructions, memory=BUFFER, cores=1, size=4):
    """Counts after (site, places of core 0, places of core 1, …) one after the other."""
    sites = [Site(0, size, False, 0), Site(0, size, True, 0)]
    with CacheModel(CacheConfigurations((config,), cores)) as model:
        model.begin([memory], sites)
        for site, *places in instructions:
            model.forget()  # another iteration: registers hold nothing of the last
            model.access(site, np.array(places, np.int64).reshape(cores, -1))
        model.end()
        counts = model.read()
    return counts.accesses, counts.caches["tiny"]


def level(counts):
    return counts.lookups, counts.misses, counts.write_backs


def lines(*numbers):
    return [(LOAD, LINE * number) for number in numbers]


def test_lines_of_one_set_drive_each_other_out_of_a_direct_mapped_cache():
    # Two sets of one way: lines 0 and 2 share set 0, line 1 has set 1 for itself.
    _, caches = trace(tiny(buffer_lines=2), lines(0, 1, 2, 0, 1))
    assert level(caches.buffer_l1) == (5, 4, 0)  # only the second 1 hits
    assert level(caches.l2) == (4, 3, 0)  # and of the four, 0 is still in the L2


def test_two_ways_hold_what_one_does_not():
    _, caches = trace(tiny(buffer_lines=2, ways=2), lines(0, 2, 0, 2))
    assert level(caches.buffer_l1) == (4, 2, 0)


def test_the_line_that_was_not_used_for_longest_goes():
    # Three lines for two ways: 0 1 0 2 drives 1 out (0 was used again), so 0 hits and 1 misses.
    _, caches = trace(tiny(buffer_lines=2, ways=2), lines(0, 1, 0, 2, 0, 1))
    assert level(caches.buffer_l1) == (6, 4, 0)
    # First in, first out would have driven 0 out: 5 misses.


def test_loads_without_a_buffer_l1_go_to_the_l2():
    _, caches = trace(tiny(), lines(0, 0, 1))
    assert level(caches.buffer_l1) == (0, 0, 0)
    assert level(caches.l2) == (3, 2, 0)


def test_a_store_brings_its_line_into_the_l2_and_not_into_the_l1():
    _, caches = trace(tiny(buffer_lines=2), [(STORE, 0), (LOAD, 4), (LOAD, 8)])
    assert level(caches.buffer_l1) == (2, 1, 0)  # the store did not look there
    assert level(caches.l2) == (2, 1, 1)  # the load found the store's line


def test_dirty_lines_are_written_back_when_they_go_and_at_the_end():
    # Four lines in one set. Stores to 0 1, loads of 2 3, then 4: 0 goes, dirty. 5: 1 goes.
    instructions = [(STORE, 0), (STORE, LINE), *lines(2, 3, 4, 5), (STORE, 5 * LINE)]
    _, caches = trace(tiny(), instructions)
    assert level(caches.l2) == (7, 6, 3)  # 0 and 1 on the way, 5 at the end


def test_a_dirty_line_is_written_back_once():
    _, caches = trace(tiny(), [(STORE, 0), (STORE, 4), (LOAD, 8)])
    assert level(caches.l2) == (3, 1, 1)


def test_work_items_of_a_wave_share_the_look_up_of_a_line():
    # 64 floats in a row: 4 lines. 64 floats with a stride of 8: 32 lines.
    accesses, caches = trace(tiny(l2_lines=64), [(LOAD, [4 * i for i in range(64)])])
    assert (accesses.buffer_loads, accesses.buffer_loaded_bytes) == (64, 256)
    assert level(caches.l2) == (4, 4, 0)
    _, caches = trace(tiny(l2_lines=64), [(LOAD, [32 * i for i in range(64)])])
    assert level(caches.l2) == (32, 32, 0)


def test_waves_have_64_work_items():
    # 65 work-items that read one element: two waves, so two look-ups.
    accesses, caches = trace(tiny(), [(LOAD, [0] * 65)])
    assert accesses.buffer_loads == 65
    assert level(caches.l2) == (2, 1, 0)


def test_work_items_that_are_masked_ask_for_nothing():
    accesses, caches = trace(tiny(), [(LOAD, [0, -1, 64, -1]), (LOAD, [-1, -1, -1, -1])])
    assert accesses.buffer_loads == 2
    assert level(caches.l2) == (2, 2, 0)


def test_a_request_across_two_lines_looks_both_up():
    accesses, caches = trace(tiny(), [(LOAD, 56)], size=16)
    assert accesses.buffer_loads == 1
    assert level(caches.l2) == (2, 2, 0)


def image(width, height, element=16):
    return Memory("I", width * height * element, element, width, height, 1)


def texels(width, *places):
    return [(LOAD, y * width + x) for x, y in places]


COLUMN = [(0, y) for y in range(4)]
ROW = [(x, 0) for x in range(4)]


@pytest.mark.parametrize(
    "tile, column_misses, row_misses", [((4, 1), 4, 1), ((2, 2), 2, 2), ((1, 4), 1, 4)]
)
def test_a_tile_of_an_image_is_a_line(tile, column_misses, row_misses):
    config = tiny(tile=tile, l2_lines=8)
    _, caches = trace(config, texels(8, *COLUMN), image(8, 8), size=16)
    assert level(caches.texture_l1) == (4, column_misses, 0)
    assert caches.l2.misses == column_misses
    _, caches = trace(config, texels(8, *ROW), image(8, 8), size=16)
    assert caches.texture_l1.misses == row_misses


def test_a_column_hits_in_an_image_and_misses_in_a_buffer():
    # 8 columns of 16 bytes: a row of the buffer is two lines, a column of 4 elements 4 lines.
    _, of_image = trace(tiny(tile=(2, 2)), texels(8, *COLUMN), image(8, 8), size=16)
    _, of_buffer = trace(tiny(buffer_lines=2), [(LOAD, 128 * y) for y in range(4)], size=16)
    assert of_image.texture_l1.misses == 2
    assert of_buffer.buffer_l1.misses == 4


def test_a_tile_has_twice_the_columns_where_texels_have_8_bytes():
    # Tiles of 4 × 2 texels: columns 0 to 3 of rows 0 and 1 are one line, column 4 is another.
    places = texels(8, (0, 0), (3, 1), (4, 0), (7, 1), (0, 2))
    _, caches = trace(tiny(tile=(2, 2)), places, image(8, 8, element=8), size=8)
    assert level(caches.texture_l1) == (5, 3, 0)


def test_tiles_at_the_right_edge_are_padded():
    # 3 columns in tiles of 2: two tiles a row, so (0, 2) is in the third tile and not the second.
    _, caches = trace(tiny(tile=(2, 2)), texels(3, (0, 0), (2, 0), (0, 2)), image(3, 4), size=16)
    assert caches.texture_l1.misses == 3


def test_image_writes_pass_the_texture_l1():
    accesses, caches = trace(
        tiny(), [(STORE, 0), (STORE, 1), (LOAD, 2), (LOAD, 3)], image(8, 8), size=16
    )
    assert (accesses.image_writes, accesses.image_reads) == (2, 2)
    assert level(caches.texture_l1) == (2, 1, 0)
    assert level(caches.l2) == (3, 1, 1)


def test_cores_have_an_l1_each_and_share_the_l2():
    # Both read line 0, twice: a miss each in their L1; the second to ask finds it in the L2.
    accesses, caches = trace(tiny(buffer_lines=2), [(LOAD, 0, 0), (LOAD, 4, 4)], cores=2)
    assert accesses.buffer_loads == 4
    assert level(caches.buffer_l1) == (4, 2, 0)
    assert level(caches.l2) == (2, 1, 0)


def test_what_a_register_holds_is_not_asked_for_again():
    config = tiny()
    with CacheModel(CacheConfigurations((config,), 1)) as model:
        model.begin([Memory("A", 1024, 4)], [Site(0, 4, False, 1), Site(0, 4, True, 0)])
        place = np.zeros((1, 1), np.int64)
        for site, forget in ((0, None), (0, None), (0, 1), (1, None), (0, 1), (1, None), (0, 0)):
            if forget is not None:
                model.forget(forget)
            model.access(site, place)
        accesses = model.read().accesses
    # Load, again: held. New iteration: load. Store. New iteration: the store's value is held at
    # depth 0, and the second store overwrites it there. New work-group: load.
    assert (accesses.buffer_loads, accesses.buffer_stores) == (3, 1)


@pytest.mark.parametrize("values, loads", [(32, 32), (33, 66)])
def test_registers_are_512_bytes_of_each_loop_depth(values, loads):
    with CacheModel(CacheConfigurations((tiny(),), 1)) as model:
        model.begin([Memory("A", 4096, 4)], [Site(0, 16, False, 0)])
        for _ in range(2):
            for number in range(values):
                model.access(0, np.full((1, 1), 16 * number, np.int64))
        assert model.read().accesses.buffer_loads == loads
