"""A second cache simulator, in plain Python, that shares nothing with the one under test."""

from __future__ import annotations

from collections import Counter, OrderedDict

REGISTERS = 512


class PlainCache:
    def __init__(self, kib, line_bytes, ways):
        self.ways = ways
        self.sets = [OrderedDict() for _ in range(int(kib * 1024) // line_bytes // ways)]

    def touch(self, line, write=False):
        """Whether the line was there, and whether a dirty one had to go."""
        chosen = self.sets[hash(line) % len(self.sets)]
        gone = False
        there = line in chosen
        if not there and len(chosen) == self.ways:
            gone = chosen.popitem(last=False)[1]
        chosen[line] = chosen.pop(line, False) or write
        return there, gone

    def dirty(self):
        return sum(sum(lines.values()) for lines in self.sets)


class PlainGpu:
    """One configuration of `load_configurations`; memories are (bytes, image extents or None)."""

    def __init__(self, config, cores, memories):
        self.config = config
        self.line = config.l2.line_bytes
        self.counts = Counter()
        shape = config.texture_l1
        self.textures = [PlainCache(shape.kib, self.line, shape.ways) for _ in range(cores)]
        shape = config.buffer_l1
        self.buffers = shape and [
            PlainCache(shape.kib, self.line, shape.ways) for _ in range(cores)
        ]
        self.l2 = PlainCache(config.l2.kib, self.line, config.l2.ways)
        self.memories = memories
        self.starts, start = [], 0
        for size, image, element in memories:
            self.starts.append(start)
            if image is None:
                start += -(-size // self.line)
            else:
                width, height = image
                columns, rows = self.tile(element)
                start += -(-width // columns) * -(-height // rows)

    def tile(self, element):
        columns, rows = self.config.tile_texels
        return columns * 16 // element, rows

    def lines(self, memory, place, size):
        _, image, element = self.memories[memory]
        start = self.starts[memory]
        if image is None:
            return [
                start + n for n in range(place // self.line, (place + size - 1) // self.line + 1)
            ]
        x, y = place
        columns, rows = self.tile(element)
        return [start + y // rows * -(-image[0] // columns) + x // columns]

    def issue(self, core, memory, places, size, write):
        """One instruction of a wave."""
        image = self.memories[memory][1] is not None
        level = "texture_l1" if image else "buffer_l1"
        first = self.textures if image else self.buffers
        wanted = dict.fromkeys(
            n for p in places if p is not None for n in self.lines(memory, p, size)
        )
        for line in wanted:
            if not write and first:
                self.counts[level, "lookups"] += 1
                if first[core].touch(line)[0]:
                    continue
                self.counts[level, "misses"] += 1
            there, gone = self.l2.touch(line, write)
            self.counts["l2", "lookups"] += 1
            self.counts["l2", "misses"] += not there
            self.counts["l2", "write_backs"] += gone

    def finish(self):
        self.counts["l2", "write_backs"] += self.l2.dirty()


class PlainWave:
    """What the work-items of one wave hold in registers, by depth of loops."""

    def __init__(self):
        self.held = [({}, 0), ({}, 0)]

    def forget(self, depth):
        for level in range(depth, 2):
            self.held[level] = ({}, 0)

    def holds(self, what, size, depth):
        """Whether an access is left out; it is remembered otherwise."""
        if any(what in names for names, _ in self.held):
            return True
        names, used = self.held[depth]
        if used + size > REGISTERS:
            names, used = {}, 0
        self.held[depth] = ({**names, what: None}, used + size)
        return False
